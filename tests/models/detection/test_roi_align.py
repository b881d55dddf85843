"""RoIAlign and mask targets against loops over samples, torchvision and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from repre_jax.models.detection.masks import mask_targets
from repre_jax.models.detection.roi_align import level_of, roi_align

# Inside, over the border, tiny, outside, without extent.
BOXES = np.array(
    [
        [4, 6, 30, 44],
        [-9, -7, 20, 13],
        [40, 30, 90, 60],
        [10.2, 11.7, 11.1, 12.9],
        [200, 200, 240, 240],
        [0, 0, 0, 0],
    ],
    np.float32,
)


def bilinear(plane, y, x):
    height, width = plane.shape[:2]
    if not (-1 <= y <= height and -1 <= x <= width):
        return np.zeros(plane.shape[2:])
    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    y, x = y - top, x - left
    above = plane[top, left] * (1 - x) + plane[top, right] * x
    below = plane[bottom, left] * (1 - x) + plane[bottom, right] * x
    return above * (1 - y) + below * y


def by_definition(plane, box, stride, bins, samples):
    """Sections 3 and appendix of arXiv 1703.06870, half-pixel centres."""
    x0, y0, x1, y1 = box / stride
    height, width = (y1 - y0) / bins, (x1 - x0) / bins
    out = np.zeros((bins, bins, plane.shape[2]))
    for row in range(bins):
        for column in range(bins):
            points = [
                bilinear(
                    plane,
                    y0 + (row + (a + 0.5) / samples) * height - 0.5,
                    x0 + (column + (b + 0.5) / samples) * width - 0.5,
                )
                for a in range(samples)
                for b in range(samples)
            ]
            out[row, column] = np.mean(points, axis=0)
    return out


aligned = jax.jit(roi_align, static_argnums=(1, 3))
targets = jax.jit(mask_targets, static_argnums=3)


@pytest.fixture(scope="module")
def plane():
    return np.random.default_rng(0).normal(size=(16, 20, 3)).astype(np.float32)


def test_regions_are_means_of_bilinear_samples(plane):
    found = aligned([plane[None]], (4,), BOXES[None], 5)[0]
    wanted = [by_definition(plane, box, 4, 5, 2) for box in BOXES]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.abs(found[:4]).max(axis=(1, 2, 3)).all() and not found[4].any()


def test_regions_come_from_the_level_of_their_size_in_chunks_too(plane):
    rng = np.random.default_rng(1)
    levels = [rng.normal(size=(1, 64 // 2**k, 48 // 2**k, 2)) for k in range(3)]
    levels = [jnp.asarray(level, jnp.float32) for level in levels]
    side = np.array([20.0, 111, 113, 223, 225, 500])
    boxes = np.stack([0 * side, 0 * side, side, side], axis=1).astype(np.float32)
    boxes = np.tile(boxes, (25, 1))[:140]  # more than two chunks
    numbers = np.array([0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(level_of(boxes[:6], 3), numbers)
    found = aligned(levels, (4, 8, 16), boxes[None], 3)[0]
    assert found.shape == (140, 3, 3, 2)
    for k in (0, 3, 5, 139):
        level = numbers[k % 6]
        wanted = by_definition(np.asarray(levels[level][0]), boxes[k], 4 * 2**level, 3, 2)
        np.testing.assert_allclose(found[k], wanted, atol=1e-5)


def test_levels_of_other_strides_begin_at_sides_in_proportion():
    """An encoder whose finest map is twice as fine finds objects half as large there."""
    boxes = np.array([[0, 0, 55, 55], [0, 0, 57, 57]], np.float32)
    np.testing.assert_array_equal(level_of(boxes, 4, finest=2), [0, 1])


def test_gradients_of_the_map_are_those_of_finite_differences():
    with jax.enable_x64(True):
        plane = jnp.asarray(np.random.default_rng(2).normal(size=(1, 6, 5, 1)))
        boxes = jnp.asarray(BOXES[None, :4], jnp.float64) / 4

        @jax.jit
        def total(x):
            return jnp.sum(roi_align([x], [4], boxes, 2) ** 2)

        gradient = jax.jit(jax.grad(total))(plane)
        step = 1e-6
        for place in ((0, 0, 0, 0), (0, 2, 3, 0), (0, 5, 4, 0)):
            ahead, behind = (total(plane.at[place].add(s)) for s in (step, -step))
            np.testing.assert_allclose(gradient[place], (ahead - behind) / 2 / step, atol=1e-5)


def test_as_torchvision(plane):
    torch, ops = pytest.importorskip("torch"), pytest.importorskip("torchvision").ops
    wanted = ops.roi_align(
        torch.from_numpy(plane.transpose(2, 0, 1)[None].copy()),
        [torch.from_numpy(BOXES)],
        output_size=7,
        spatial_scale=0.25,
        sampling_ratio=2,
        aligned=True,
    )
    found = aligned([plane[None]], (4,), BOXES[None], 7)[0]
    np.testing.assert_allclose(found, wanted.numpy().transpose(0, 2, 3, 1), atol=2e-5)


def test_mask_targets_are_what_lies_inside_of_a_region():
    side = 112
    y, x = np.mgrid[:side, :side]
    masks = np.stack([y < side // 2, x >= side // 2, np.ones((side, side))]).astype(np.uint8)
    boxes = np.array([[10, 20, 60, 120]] * 3, np.float32)
    whole = np.asarray(targets(masks, boxes, boxes, 28))
    assert whole[0, :14].all() and not whole[0, 14:].any()
    assert whole[1, :, 14:].all() and not whole[1, :, :14].any()
    # A region twice as wide to the left: its left half lies outside of the object.
    left = boxes - np.array([50, 0, 0, 0], np.float32)
    found = np.asarray(targets(masks, boxes, left, 28))
    assert not found[2, :, :14].any() and found[2, :, 14:].all()
    assert found[1, :, 21:].all() and not found[1, :, :21].any()


def test_mask_targets_of_padding_are_finite():
    nothing = np.zeros((1, 4), np.float32)
    found = targets(np.zeros((1, 112, 112), np.uint8), nothing, nothing, 28)
    assert not np.asarray(found).any()
