"""Features of frozen encoders against DINO's recorded layers: the right blocks and norms."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import from_torch_names
from golden.cases import FORWARD_VIT
from golden.compare import FOLDER
from golden.weights import images, normalised, vit_shapes, weights
from tiny import random_state, tiny_learner, tiny_swin_config

from repre_jax.evaluation.frozen import block_features, encode_pixels, frozen_features
from repre_jax.models.layers import layer_norm
from repre_jax.models.taps import read_block
from repre_jax.models.vit import ViT
from repre_jax.sharding import make_mesh

GOLDEN = dict(np.load(FOLDER / "vit.npz"))
# get_intermediate_layers(n=3) of three blocks: [blocks, B, 1 + N, D], each after the final norm.
LAYERS = GOLDEN["dino/32/layers"]
IMAGES = normalised(images("forward/32", 2, 32))


@pytest.fixture(scope="module")
def vit():
    shape = FORWARD_VIT
    encoder = ViT(
        patch_size=shape.patch_size,
        width=shape.width,
        depth=shape.depth,
        heads=shape.heads,
        image_size=shape.image_size,
    )
    return encoder, from_torch_names.encoder(weights(vit_shapes(shape, learned_positions=True)))


def official_linear_input(blocks, avgpool):
    """The reading of eval_linear.py (train): class tokens of n blocks, then the mean patch."""
    output = np.concatenate([x[:, 0] for x in blocks], axis=-1)
    if avgpool:
        mean = blocks[-1][:, 1:].mean(axis=1)
        output = np.concatenate([output[..., None], mean[..., None]], axis=-1)
        output = output.reshape(len(output), -1)
    return output


def test_mean_is_that_of_the_patch_tokens_after_the_final_norm(vit):
    ours = frozen_features(*vit, IMAGES, "mean")
    np.testing.assert_allclose(ours, LAYERS[-1][:, 1:].mean(axis=1), atol=1e-4)


def test_mean_is_taken_in_float32(vit):
    encoder, params = vit
    half = encoder.clone(dtype=jnp.bfloat16)
    tokens = half.apply({"params": params}, IMAGES).tokens
    assert tokens.dtype == jnp.bfloat16
    ours = frozen_features(half, params, IMAGES, "mean")
    np.testing.assert_allclose(ours, tokens.astype(jnp.float32).mean(axis=1), rtol=1e-6)


@pytest.mark.parametrize(
    ("feature", "blocks", "avgpool"),
    [("pooled", 1, False), ("last_4", 3, False), ("class_and_mean", 1, True)],
)
def test_vit_features_are_those_of_dinos_linear_probe(vit, feature, blocks, avgpool):
    ours = frozen_features(*vit, IMAGES, feature)
    expected = official_linear_input(list(LAYERS[-blocks:]), avgpool)
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_vit_features_are_bit_for_bit_those_of_shorter_encoders():
    """Cut after a block, an encoder ends with its final norm on that block's class token.

    Not jitted, so that both ways compute the same operations in the same order.
    """
    encoder = ViT(patch_size=8, width=16, depth=6, heads=2, image_size=16)
    images = np.random.default_rng(0).normal(size=(3, 16, 16, 3)).astype(np.float32)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), images)["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    cut = [encoder.clone(depth=depth).apply({"params": params}, images) for depth in (3, 4, 5, 6)]
    last_4 = frozen_features(encoder, params, images, "last_4")
    np.testing.assert_array_equal(last_4, np.concatenate([x.pooled for x in cut], axis=1))
    pooled = frozen_features(
        encoder, params, images, "pooled"
    )  # MAE: main_linprobe.py, --cls_token
    np.testing.assert_array_equal(pooled, last_4[:, -16:])
    pair = frozen_features(encoder, params, images, "class_and_mean")
    np.testing.assert_array_equal(pair[:, ::2], pooled)
    np.testing.assert_array_equal(pair[:, 1::2], cut[-1].tokens.mean(axis=1))
    assert all(np.abs(a.pooled - b.pooled).max() > 0.1 for a, b in itertools.pairwise(cut))


def test_block_features_are_those_of_shorter_encoders_before_the_norm():
    """One of every block, in order; not jitted, as above."""
    encoder = ViT(patch_size=8, width=16, depth=4, heads=2, image_size=16)
    images = np.random.default_rng(0).normal(size=(3, 16, 16, 3)).astype(np.float32)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), images)["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    norm = layer_norm(encoder.norm_epsilon, encoder.dtype, "norm")
    features = block_features(encoder, params, images, "pooled")
    assert len(features) == encoder.depth
    for depth, feature in enumerate(features, start=1):
        cut = encoder.clone(depth=depth).apply({"params": params}, images)
        normed = norm.apply({"params": params["norm"]}, feature)
        np.testing.assert_array_equal(normed, cut.pooled)
    _, sown = encoder.apply({"params": params}, images, mutable=["intermediates"])
    for block, mean in enumerate(block_features(encoder, params, images, "mean")):
        tokens = read_block(sown["intermediates"], block).feature_map
        np.testing.assert_allclose(mean, np.asarray(tokens).mean(axis=(1, 2)), rtol=1e-5)
    assert all(np.abs(a - b).max() > 0.1 for a, b in itertools.pairwise(features))


def test_last_4_of_a_deep_vit_are_four():
    encoder = ViT(patch_size=8, width=16, depth=6, heads=2, image_size=16)
    params = jax.eval_shape(encoder.init, jax.random.key(0), np.zeros((1, 16, 16, 3)))["params"]
    shape = jax.eval_shape(
        lambda p: frozen_features(encoder, p, np.zeros((3, 16, 16, 3)), "last_4"), params
    )
    assert shape.shape == (3, 4 * 16)


def test_swin_features_are_means_of_blocks_with_the_norm_on_the_last_stage_only():
    """EsViT, forward_return_n_last_blocks: here the last block of four stages each."""
    learner = tiny_learner(tiny_swin_config("dino"))
    encoder, params = learner.encoder, random_state(learner).params["encoder"]
    pixels = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)

    @jax.jit
    def both(params, pixels):
        encoded, sown = encoder.apply({"params": params}, pixels, mutable=["intermediates"])
        maps = [read_block(sown["intermediates"], k).feature_map for k in range(5)]
        ours = frozen_features(encoder, params, pixels, "last_4")
        blocks = block_features(encoder, params, pixels, "pooled")
        return ours, encoded.pooled, maps, blocks

    ours, pooled, maps, blocks = both(params, pixels)  # pooled: the mean after the final norm
    means = [np.asarray(x).mean(axis=(1, 2)) for x in maps]
    np.testing.assert_allclose(ours, np.concatenate([*means[1:-1], pooled], axis=-1), atol=1e-4)
    for block, mean in zip(blocks, means, strict=True):
        np.testing.assert_allclose(block, mean, atol=1e-5)
    assert ours.shape == (2, 8 * (1 + 2 + 4 + 8))


def test_pixels_are_normalised_only_when_the_encoder_wants_it(vit):
    encoder, params = vit
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    mesh = make_mesh(1)
    plain = encode_pixels(encoder.clone(normalisation=None), "pooled", mesh)(params, pixels)
    expected = encoder.apply({"params": params}, pixels.astype(np.float32) / 255).pooled
    np.testing.assert_allclose(plain, expected, atol=1e-5)
    assert np.abs(encode_pixels(encoder, "pooled", mesh)(params, pixels) - plain).max() > 0.01


def test_encoders_of_one_architecture_share_a_program(vit):
    encoder, _ = vit
    program = encode_pixels(encoder.clone(), "pooled", make_mesh(1))
    assert encode_pixels(encoder.clone(), "pooled", make_mesh(1)) is program
    assert encode_pixels(encoder.clone(norm_epsilon=1e-3), "pooled", make_mesh(1)) is not program


def test_an_unknown_feature_is_an_error(vit):
    with pytest.raises(ValueError, match="must be one of"):
        frozen_features(*vit, IMAGES, "first_4")
