"""The encoder that ``repre_jax.load`` opens: the numbers of the evaluations, or a plain refusal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import saved_run
from whole_runs import image_folder

import repre_jax
from repre_jax.config_files import read_config
from repre_jax.data.pipeline import evaluation_batches
from repre_jax.data.sources import open_source
from repre_jax.errors import UserError
from repre_jax.evaluate import evaluate
from repre_jax.evaluation.checkpoint import open_pretrained
from repre_jax.evaluation.feature_cache import cached_features
from repre_jax.models.taps import apply_with_attention, apply_with_taps

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A DINO run of two checkpoints with random parameters."""
    return saved_run(tmp_path_factory.mktemp("encoder") / "run", "dino", steps=(3, 7)).folder


@pytest.fixture(scope="module")
def encoder(folder):
    return repre_jax.load(folder)


def test_features_are_bit_for_bit_those_of_an_evaluation(folder, tmp_path):
    """The k-NN's, which it has left on disk, of the same images in the same batches."""
    config = read_config("eval/knn")
    path = str(image_folder(tmp_path / "images", train=32, val=11))
    config.update({"checkpoint": str(folder), "devices": 1, "batch_size": 8})
    config.data.update({"source": "folder", "path": path})
    config.update({"neighbours": (5,), "reported_neighbours": 5, "cache_path": str(tmp_path)})
    evaluate(config, tmp_path / "knn")

    encoder = repre_jax.load(folder)
    data = encoder.pretrained.config.data.copy_and_resolve_references()
    data.update({"source": "folder", "path": path})
    train = open_source(data, "train")
    with evaluation_batches(train, image_size=16, batch_size=8, workers=0) as batches:
        ours = np.concatenate([encoder.features(batch["image"]) for batch in batches])
    (kept,) = (x for x in tmp_path.glob("pooled-*") if np.load(x / "index.npy").size == 32)
    theirs, _ = cached_features(kept, 32, None)
    np.testing.assert_array_equal(ours, theirs.features)


def test_maps_are_those_of_the_blocks_at_another_size_too(folder, encoder):
    pretrained = open_pretrained(folder)
    pixels = np.random.default_rng(1).integers(0, 256, (2, 24, 16, 3), np.uint8)
    maps = encoder.maps(pixels, [3, 1])
    assert [x.shape for x in maps] == [(2, 3, 2, 128)] * 2
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    normalised = (pixels.astype(np.float32) / 255 - mean) / std
    params = {"params": pretrained.load_params()}
    _, expected = apply_with_taps(pretrained.encoder, params, normalised, (3, 1))
    for ours, theirs in zip(maps, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert np.abs(maps[0] - maps[1]).max() > 0.1


def test_attention_is_that_of_the_block_at_another_size_too(folder, encoder):
    pretrained = open_pretrained(folder)
    pixels = np.random.default_rng(1).integers(0, 256, (2, 24, 16, 3), np.uint8)
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    normalised = (pixels.astype(np.float32) / 255 - mean) / std
    params = {"params": pretrained.load_params()}
    for block in (1, 3):
        attention = encoder.attention(pixels, block)
        assert attention.shape == (2, 4, 3, 2) and attention.dtype == jnp.float32
        expected = apply_with_attention(pretrained.encoder, params, normalised, block)
        np.testing.assert_allclose(attention, expected, atol=1e-4)
    assert np.abs(encoder.attention(pixels, 1) - attention).max() > 0.01


def test_attention_of_an_encoder_without_a_class_token(tmp_path):
    sizes = {"width": 8, "depth": None, "heads": None, "stage_depths": (1, 1, 1, 1)}
    sizes |= {"stage_heads": (1, 1, 1, 1), "patch_size": 4, "image_size": 32, "window": 2}
    saved_run(tmp_path / "run", "simsiam", name="swin_nano", position=None, **sizes)
    swin = repre_jax.load(tmp_path / "run")
    with pytest.raises(UserError, match="swin_nano has no class token"):
        swin.attention(np.zeros((1, 32, 32, 3), np.uint8), 3)


def test_floats_in_0_to_1_are_the_same_images(encoder):
    expected = encoder.features(PIXELS)
    assert expected.dtype == jnp.float32
    for dtype in (np.float32, np.float64):
        floats = PIXELS.astype(dtype) / 255
        np.testing.assert_allclose(encoder.features(floats), expected, atol=1e-4)
        np.testing.assert_allclose(encoder.features(jnp.asarray(floats)), expected, atol=1e-4)
    assert np.abs(encoder.features(PIXELS // 2) - expected).max() > 0.01


def test_step_and_weights_are_those_asked_for(folder):
    for options in ({"step": 3}, {"weights": "online"}, {"weights": "random"}):
        params = open_pretrained(folder, **options).load_params()
        jax.tree.map(
            np.testing.assert_array_equal, repre_jax.load(folder, **options).params, params
        )


def test_half_precision_comes_back_whole(folder, encoder):
    half = repre_jax.load(folder, compute_dtype="bfloat16")
    features, (feature_map,) = half.features(PIXELS), half.maps(PIXELS, [1])
    assert features.dtype == feature_map.dtype == jnp.float32
    difference = np.abs(features - encoder.features(PIXELS)).max()
    assert 0 < difference < 0.1


def test_a_shape_is_compiled_once(folder):
    encoder = repre_jax.load(folder)
    for batch in (2, 2, 3):
        encoder.features(PIXELS[:batch])
        encoder.maps(PIXELS[:batch], [1])
    assert encoder._features._cache_size() == encoder._maps._cache_size() == 2


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (PIXELS[0], "Images must be [B, H, W, 3], not [16, 16, 3]."),
        (PIXELS.transpose(0, 3, 1, 2), "Images must be [B, H, W, 3], not [3, 3, 16, 16]."),
        (PIXELS[:0], "not [0, 16, 16, 3]."),
        ([PIXELS[0], PIXELS[0, :8]], "Images of several shapes need a call for each shape."),
        (PIXELS[:, :12], "Images of 12 x 16 pixels do not fit: both sides must be multiples of 8"),
        (PIXELS.astype(np.int64), "Images must be uint8, or floats in [0, 1], not int64."),
        (PIXELS.astype(np.float32), "neither normalised nor 0 to 255; these images go from 0 to"),
        ((PIXELS / 255 - 0.5) / 0.25, "these images go from -2 to 2."),
        (np.where(PIXELS[0, 0, 0, 0] == PIXELS, np.nan, 0.5), "go from nan to nan."),
    ],
)
def test_images_that_would_be_encoded_wrongly_are_refused(encoder, images, words):
    calls = (encoder.features, lambda x: encoder.maps(x, [1]), lambda x: encoder.attention(x, 1))
    for call in calls:
        with pytest.raises(UserError) as error:
            call(images)
        assert words in str(error.value)


@pytest.mark.parametrize("block", [4, -1, "3"])
def test_a_block_that_is_not_there(encoder, block):
    with pytest.raises(UserError, match=r"^There is no block .*: vit_nano has blocks 0 to 3\.$"):
        encoder.maps(PIXELS, [1, block])
    with pytest.raises(UserError, match=r"^There is no block"):
        encoder.attention(PIXELS, block)


def test_a_compute_type_that_is_none(folder):
    with pytest.raises(UserError, match="compute_dtype='half' must be one of auto, float32"):
        repre_jax.load(folder, compute_dtype="half")
