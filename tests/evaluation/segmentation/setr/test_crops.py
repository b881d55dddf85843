"""Training crops: geometry, void beyond the image, and which draws they depend on."""

import jax
import numpy as np
import pytest
from dense_sets import camvid_folder, scene

from repre_jax.data.segmentation.label_maps import VOID
from repre_jax.data.segmentation.layouts import open_segmentation
from repre_jax.evaluation import defaults
from repre_jax.evaluation.segmentation.setr.crops import (
    CropRecipe,
    augmented,
    crop_batches,
    distorted,
    draw_crop,
    scaled_size,
)

RECIPE = CropRecipe((16, 20), (0.5, 2.0), None, 0.75)


def test_sizes_are_those_of_mmcv():
    assert scaled_size((1024, 2048), (1025, 2049), 1.0) == (1025, 2049)
    assert scaled_size((1024, 2048), (1025, 2049), 0.5) == (512, 1024)
    assert scaled_size((600, 400), (512, 512), 1.0) == (512, 341)
    assert scaled_size((24, 32), None, 1.5) == (36, 48)


def test_a_crop_of_image_and_map_shows_the_same_place():
    """An image whose red is its class."""
    label = scene(3)[1]
    image = np.repeat(label[..., None], 3, axis=2)
    rng = np.random.default_rng(0)
    same = CropRecipe((16, 20), (1.0, 1.0), None, 1.0)
    for _ in range(5):
        pixels, classes, inside = draw_crop(image, label, same, rng)
        assert inside == (16, 20)
        np.testing.assert_array_equal(pixels[..., 0], classes)


def test_beyond_a_small_image_is_void():
    image, label = scene(0, (12, 16))
    half = CropRecipe((16, 20), (0.5, 0.5), None, 0.75)
    pixels, classes, inside = draw_crop(image, label, half, np.random.default_rng(0))
    assert inside == (6, 8)
    assert (classes[6:] == VOID).all() and (classes[:, 8:] == VOID).all()
    assert not pixels[6:].any() and pixels[:6, :8].any()


def test_crops_of_one_class_are_drawn_again():
    """Of a long map of one class, but for its right edge."""
    label = np.zeros((16, 200), np.uint8)
    label[:, 195:] = 1
    image = np.zeros((16, 200, 3), np.uint8)
    rng = np.random.default_rng(0)
    recipes = [CropRecipe((16, 20), (1.0, 1.0), None, share) for share in (0.9, 0.0)]
    mixed = [
        sum(len(np.unique(draw_crop(image, label, recipe, rng)[1])) == 2 for _ in range(100))
        for recipe in recipes
    ]
    # Three places in 181 do: ten tries find one now and then. No crop has a share of 0.
    assert mixed[0] > 10 > mixed[1]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    data = defaults.segmentation_data()
    data.path = str(camvid_folder(tmp_path_factory.mktemp("crops"), train=8))
    return open_segmentation(data, 3)[0]


def test_batches_depend_on_seed_and_step_alone(source):
    def batches(start, seed=0):
        options = {"batch_size": 4, "steps": 5, "seed": seed, "workers": 0}
        with crop_batches(source, RECIPE, start_step=start, **options) as made:
            return list(made)

    whole, later, other = batches(0), batches(3), batches(0, seed=1)
    assert len(whole) == 5 and len(later) == 2
    for a, b in zip(whole[3:], later, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)
    assert (whole[0]["image"] != other[0]["image"]).any()
    assert sorted(np.concatenate([x["index"] for x in whole[:2]])) == list(range(8))


def test_augmentation_flips_image_map_and_inside_together():
    rng = np.random.default_rng(0)
    label = rng.integers(200, size=(16, 8, 8)).astype(np.uint8)
    batch = {
        "image": np.repeat(label[..., None], 3, axis=3),
        "label": label,
        "inside": np.tile(np.array([[8, 5]], np.int32), (16, 1)),
        "index": np.arange(16, dtype=np.int32),
    }
    pixels, classes, there = jax.jit(lambda b: augmented(b, 2, 0, False))(batch)
    np.testing.assert_allclose(pixels[..., 0] * 255, classes, atol=1e-3)
    flipped = np.asarray(classes)[:, 0, 0] != label[:, 0, 0]
    assert 2 < flipped.sum() < 14
    for k in range(16):
        # The image alone is mirrored: padding stays right of it, as SETR pads behind the flip.
        expected = label[k, :, 4::-1] if flipped[k] else label[k, :, :5]
        np.testing.assert_array_equal(classes[k, :, :5], expected)
        assert there[k, :, :5].all()
        assert there[k].sum() == 40


def test_distortion_stays_a_picture_and_differs_by_key():
    image = np.random.default_rng(0).random((6, 6, 3), np.float32)
    keys = jax.random.split(jax.random.key(0), 32)
    planes = tuple(np.moveaxis(image, -1, 0))
    made = np.stack(jax.jit(jax.vmap(distorted, in_axes=(0, None)))(keys, planes), axis=-1)
    assert made.min() >= 0 and made.max() <= 1
    unchanged = np.isclose(made, image, atol=1e-5).all(axis=(1, 2, 3))
    assert unchanged.sum() < 8, "one in sixteen is left alone"
    assert len(np.unique(made[:, 0, 0, 0].round(4))) > 16
