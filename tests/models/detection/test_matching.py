"""Assignment against a loop; sampling by its counts, its places and its chances."""

import jax
import numpy as np
import pytest

from repre_jax.models.detection.matching import (
    IGNORED,
    NEGATIVE,
    POSITIVE,
    match,
    sample,
    with_low_quality,
)


def looped(overlaps, valid, own, at_least):
    """MaxIoUAssigner, and detectron2's Matcher where ``own`` is False."""
    objects, count = overlaps.shape
    label, number = np.full(count, IGNORED), np.zeros(count, int)
    real = [g for g in range(objects) if valid[g]]
    for n in range(count):
        best = max(((overlaps[g, n], -g) for g in real), default=(0.0, 0))
        number[n] = -best[1]
        if best[0] < 0.3:
            label[n] = NEGATIVE
        elif best[0] >= 0.7:
            label[n] = POSITIVE
    for g in real:
        most = overlaps[g].max()
        for n in range(count):
            if overlaps[g, n] == most and most >= max(at_least, 1e-6):
                label[n] = POSITIVE
                if own:
                    number[n] = g
    return number, label


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("objects", [6, 0])
def test_anchors_are_assigned_as_by_a_loop(own, objects):
    rng = np.random.default_rng(0)
    overlaps = np.round(rng.uniform(0, 0.8, (6, 300)), 2).astype(np.float32)  # with ties
    overlaps[1, 100:] = overlaps[0, 100:]
    overlaps[2] *= 0.3  # an object that nothing overlaps much
    overlaps[3] = 0
    valid = np.arange(6) < objects
    overlaps[~valid] = 0
    at_least = 0.3 if own else 0.0
    matches = match(overlaps, valid, negative_below=0.3, positive_from=0.7)
    found = with_low_quality(matches, overlaps, valid, at_least=at_least, own=own)
    number, label = looped(overlaps, valid, own, at_least)
    np.testing.assert_array_equal(found.label, label)
    positive = label == POSITIVE
    np.testing.assert_array_equal(np.asarray(found.object)[positive], number[positive])


choose = jax.jit(sample, static_argnames=("count", "positive_share"))


@pytest.mark.parametrize(
    ("positives", "negatives", "wanted"),
    [
        (50, 100, (10, 30)),
        (3, 100, (3, 37)),
        (0, 100, (0, 40)),
        (50, 0, (10, 0)),
        (50, 20, (10, 20)),
    ],
)
def test_slots_are_filled_as_far_as_there_are_boxes(positives, negatives, wanted):
    label = np.full(200, IGNORED)
    label[:positives] = POSITIVE
    label[positives : positives + negatives] = NEGATIVE
    label = np.random.default_rng(1).permutation(label)
    found = choose(jax.random.key(0), label, count=40, positive_share=0.25)
    assert (int(found.positive.sum()), int(found.negative.sum())) == wanted
    index = np.asarray(found.index)
    assert (label[index[found.positive]] == POSITIVE).all()
    assert (label[index[found.negative]] == NEGATIVE).all()
    chosen = index[np.asarray(found.positive | found.negative)]
    assert len(np.unique(chosen)) == len(chosen)
    assert np.asarray(found.positive)[: wanted[0]].all()  # first, where the mask head looks


def test_slots_outnumber_boxes():
    found = choose(jax.random.key(0), np.array([1, 0, 0]), count=8, positive_share=0.5)
    assert found.index.shape == (8,)
    assert (int(found.positive.sum()), int(found.negative.sum())) == (1, 2)


def test_every_box_has_the_same_chance():
    label = np.array([POSITIVE] * 8 + [NEGATIVE] * 24)
    keys = jax.random.split(jax.random.key(0), 1000)
    found = jax.jit(jax.vmap(lambda key: sample(key, label, count=16, positive_share=0.25)))(keys)
    counts = np.bincount(np.asarray(found.index).reshape(-1), minlength=32)
    np.testing.assert_allclose(counts[:8] / 1000, 0.5, atol=0.07)
    np.testing.assert_allclose(counts[8:] / 1000, 0.5, atol=0.07)
