"""Boxes, anchors and suppression against numpy, published vectors and torchvision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from repre_jax.models.detection import anchors, boxes
from repre_jax.models.detection.suppression import suppress


def random_boxes(rng, count, extent=100.0, smallest=0.0):
    corner = rng.uniform(0, extent, (count, 2))
    size = rng.uniform(smallest, extent / 3, (count, 2))
    return np.concatenate([corner, corner + size], axis=1).astype(np.float32)


def overlap_of(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if width * height else 0.0


def test_overlaps_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    first, second = random_boxes(rng, 30), random_boxes(rng, 20)
    first[0] = 0  # padding
    second[0] = 0
    wanted = [[overlap_of(a, b) for b in second] for a in first]
    np.testing.assert_allclose(boxes.intersection_over_union(first, second), wanted, atol=1e-6)


def test_deltas_there_and_back():
    rng = np.random.default_rng(1)
    own, wanted = random_boxes(rng, 50, smallest=1), random_boxes(rng, 50, smallest=1)
    for deviations in (boxes.PROPOSAL_DEVIATIONS, boxes.REGION_DEVIATIONS):
        deltas = boxes.encode(wanted, own, deviations)
        np.testing.assert_allclose(boxes.decode(deltas, own, deviations), wanted, atol=1e-3)


def test_decoding_as_mmdetection_documents_it():
    """The example in the docstring of delta2bbox, core/bbox/coder/delta_xywh_bbox_coder.py."""
    own = np.array([[0, 0, 1, 1]] * 3 + [[5, 5, 5, 5]], np.float32)
    deltas = np.array([[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 2, -1], [0.7, -1.9, -0.5, 0.3]])
    found = boxes.clip(boxes.decode(deltas, own, boxes.PROPOSAL_DEVIATIONS), jnp.array([32, 32]))
    wanted = [
        [0, 0, 1, 1],
        [0.1409, 0.1409, 2.8591, 2.8591],
        [0, 0.3161, 4.1945, 0.6839],
        [5, 5, 5, 5],
    ]
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_boxes_without_extent_and_wild_deltas_stay_finite():
    empty = jnp.zeros((1, 4))

    def total(reference):
        return jnp.sum(boxes.encode(empty, reference)) + jnp.sum(
            boxes.decode(jnp.full((1, 4), 1e4), reference)
        )

    both = jax.jit(jax.value_and_grad(total))
    for reference in (jnp.array([[0.0, 0, 10, 10]]), empty):
        value, gradient = both(reference)
        assert np.isfinite(value) and np.isfinite(gradient).all()
    # 1000 / 16 times as large at most (detectron2 and torchvision), and as small as it gets.
    deltas = jnp.array([[0.0, 0, 1e4, -1e4]])
    grown = boxes.decode(deltas, jnp.array([[0.0, 0, 10, 10]]))
    np.testing.assert_allclose(grown, [[5 - 312.5, 5, 5 + 312.5, 5]], rtol=1e-5)


def test_anchors_of_a_cell_keep_their_area_and_stand_on_its_corner():
    found = anchors.level_anchors((2, 3), 4).reshape(2, 3, 3, 4)
    np.testing.assert_allclose(boxes.area(found), 32**2, rtol=1e-5)
    size = found[..., 2:] - found[..., :2]
    ratios = np.broadcast_to(anchors.RATIOS, size.shape[:-1])
    np.testing.assert_allclose(size[..., 1] / size[..., 0], ratios, rtol=1e-5)
    centres = (found[..., 2:] + found[..., :2]) / 2
    y, x = np.meshgrid([0, 4], [0, 4, 8], indexing="ij")
    np.testing.assert_allclose(centres, np.stack([x, y], -1)[:, :, None].repeat(3, 2), atol=1e-5)


def test_as_many_anchors_as_the_published_sizes_have():
    grids = [(-(-800 // s), -(-1344 // s)) for s in (4, 8, 16, 32, 64)]
    found = anchors.all_anchors(grids, (4, 8, 16, 32, 64))
    assert [len(level) for level in found] == [201600, 50400, 12600, 3150, 819]


def greedy(boxes_, valid, threshold, classes):
    kept = []
    for i in range(len(boxes_)):
        rivals = [j for j in kept if classes[i] == classes[j]]
        if valid[i] and all(overlap_of(boxes_[i], boxes_[j]) <= threshold for j in rivals):
            kept.append(i)
    return np.isin(np.arange(len(boxes_)), kept)


# one compilation for all
suppress_jitted = jax.jit(suppress, static_argnums=2)


@pytest.mark.parametrize("kind", ["random", "crowded", "copies", "a chain", "classes", "padding"])
def test_suppression_is_the_greedy_one(kind):
    rng = np.random.default_rng(2)
    count = 120
    found = random_boxes(rng, count, extent=20 if kind == "crowded" else 60, smallest=1)
    valid, classes = np.ones(count, bool), np.zeros(count, int)
    if kind == "copies":
        found[60:] = found[:60]
    if kind == "a chain":  # each suppresses the next one, so every other one is kept
        left = np.arange(count, dtype=np.float32) * 2
        found = np.stack([left, 0 * left, left + 10, 0 * left + 10], axis=1)
    if kind == "classes":
        classes = rng.integers(0, 3, count)
    if kind == "padding":
        valid = rng.uniform(size=count) < 0.5
        found[-40:] = 0
    kept = suppress_jitted(found, valid, 0.5, classes)
    np.testing.assert_array_equal(kept, greedy(found, valid, 0.5, classes))


def test_suppression_as_torchvision():
    torch, ops = pytest.importorskip("torch"), pytest.importorskip("torchvision").ops
    found = random_boxes(np.random.default_rng(3), 120, extent=30, smallest=1)
    scores = -torch.arange(120.0)
    wanted = ops.nms(torch.from_numpy(found), scores, 0.5).numpy()
    kept = suppress_jitted(found, np.ones(120, bool), 0.5, np.zeros(120, int))
    np.testing.assert_array_equal(np.flatnonzero(kept), wanted)
