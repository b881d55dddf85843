"""Sliding windows against a loop in NumPy."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations

from repre_jax.evaluation.segmentation.setr.windows import class_probabilities, window_corners

CROP, STRIDE, BATCH = (8, 10), (6, 7), 3


def logits_of(windows, inside):
    """Not the same in every window: what a pixel is depends on where it lies in the crop."""
    del inside
    x = jnp.asarray(windows, jnp.float32) / 255
    ramp = jnp.arange(CROP[0] * CROP[1], dtype=jnp.float32).reshape(1, *CROP, 1) / 80
    return jnp.concatenate([x[..., :2], x[..., 2:] * ramp], axis=-1) * 3


def reference(image, own):
    total, count = np.zeros((*image.shape[:2], 3)), np.zeros((*image.shape[:2], 1))
    for k in range(max(image.shape[0] - CROP[0] + STRIDE[0] - 1, 0) // STRIDE[0] + 1):
        for j in range(max(image.shape[1] - CROP[1] + STRIDE[1] - 1, 0) // STRIDE[1] + 1):
            bottom = min(k * STRIDE[0] + CROP[0], image.shape[0])
            right = min(j * STRIDE[1] + CROP[1], image.shape[1])
            top, left = bottom - CROP[0], right - CROP[1]
            part = np.s_[top:bottom, left:right]
            total[part] += np.asarray(logits_of(image[part][None], None)[0])
            count[part] += 1
    assert (count > 0).all()
    mean = cv2.resize((total / count).astype(np.float32), own[::-1])  # half-pixel bilinear
    return np.asarray(jax.nn.softmax(mean, axis=-1))


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (19, 23, 3), np.uint8)


def probabilities(logits_of, image, **changes):
    options = {"crop": CROP, "stride": STRIDE, "batch": BATCH, "base": None} | changes
    found = class_probabilities(logits_of, image, **options)
    assert all(side % 128 == 0 for side in found.shape[:2])
    return found[: image.shape[0], : image.shape[1]]


def test_windows_are_those_of_a_loop(image):
    found = probabilities(logits_of, image)
    np.testing.assert_allclose(found, reference(image, image.shape[:2]), atol=1e-5)


def test_scaled_and_mirrored(image):
    larger = cv2.resize(image, (46, 38))
    mean = reference(larger, image.shape[:2])
    mean = (mean + reference(larger[:, ::-1].copy(), image.shape[:2])[:, ::-1]) / 2
    found = probabilities(logits_of, image, scales=(2.0,), flipped=True)
    np.testing.assert_allclose(found, mean, atol=1e-4)
    both = probabilities(logits_of, image, scales=(1.0, 2.0))
    expected = (reference(image, (19, 23)) + reference(larger, (19, 23))) / 2
    np.testing.assert_allclose(both, expected, atol=1e-4)


def test_mirrored_at_its_own_size(image):
    mean = reference(image, (19, 23))
    mean = (mean + reference(image[:, ::-1].copy(), (19, 23))[:, ::-1]) / 2
    np.testing.assert_allclose(probabilities(logits_of, image, flipped=True), mean, atol=1e-5)


def test_images_of_many_sizes_take_few_programs():
    images = [np.zeros((height, width, 3), np.uint8) for height, width in ((19, 23), (30, 9))]
    images += [np.zeros((height, width, 3), np.uint8) for height, width in ((51, 90), (128, 77))]
    probabilities(logits_of, images[0], scales=(0.5, 1.0), flipped=True)
    with compilations() as compiled:
        for image in images[1:]:
            probabilities(logits_of, image, scales=(0.5, 1.0), flipped=True)
    assert not [name for name in compiled if name in ("_added", "_probabilities")]


def test_constant_logits_give_the_constant(image):
    constant = np.array([1.0, 2.0, 0.0], np.float32)

    def same(windows, inside):
        del inside
        return jnp.broadcast_to(constant, (*windows.shape[:3], 3))

    for size in ((19, 23), (5, 30), (4, 4)):
        found = probabilities(same, image[:1, :1].repeat(size[0], 0).repeat(size[1], 1))
        assert found.shape == (*size, 3)
        np.testing.assert_allclose(found[2, 3], jax.nn.softmax(constant), rtol=1e-5)


def test_small_images_are_one_window_that_says_how_much_is_inside(image):
    seen = []

    def watched(windows, inside):
        seen.append(inside.tolist())
        return logits_of(windows, inside)

    found = probabilities(watched, image[:5, :7])
    assert found.shape == (5, 7, 3) and seen == [[[5, 7], [0, 0], [0, 0]]]
    # At several scales the short side is raised to the crop's: nothing is beyond the image.
    seen.clear()
    probabilities(watched, image[:5, :7], scales=(0.5, 1.0))
    assert all(rows == 8 and columns == 10 for part in seen for rows, columns in part if rows)


def test_windows_of_cityscapes():
    """Two by four, the last ones moved back (dense recipes, 1.3)."""
    assert window_corners(1025, 768, 512) == [0, 257]
    assert window_corners(2049, 768, 512) == [0, 512, 1024, 1281]
    assert window_corners(500, 768, 512) == [0]
