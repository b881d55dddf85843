"""Scores of pixels against a triple loop."""

import jax.numpy as jnp
import numpy as np
import pytest

from repre_jax.data.segmentation.label_maps import VOID
from repre_jax.evaluation.segmentation.confusion import (
    confusion_matrix,
    confusion_on_host,
    scores,
)

CLASSES = 4  # of which 3 never occurs


@pytest.fixture(scope="module")
def maps():
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, VOID], size=(2, 9, 7)).astype(np.uint8)
    predictions = rng.choice([0, 1, 2, VOID], p=[0.4, 0.3, 0.25, 0.05], size=labels.shape)
    return labels, predictions.astype(np.uint8)


def test_matrix_is_that_of_a_loop_and_host_and_device_agree(maps):
    labels, predictions = maps
    expected = np.zeros((CLASSES, CLASSES + 1), int)
    for truth, given in zip(labels.ravel(), predictions.ravel(), strict=True):
        if truth != VOID:
            expected[truth, min(given, CLASSES)] += 1
    on_host = confusion_on_host(labels, predictions, CLASSES)
    np.testing.assert_array_equal(on_host, expected)
    on_device = confusion_matrix(jnp.asarray(labels), jnp.asarray(predictions), CLASSES)
    np.testing.assert_array_equal(on_device, expected)


def test_scores_are_those_of_a_loop(maps):
    labels, predictions = maps
    found = scores(confusion_on_host(labels, predictions, CLASSES), "abcd")
    ious, accuracies = [], []
    for c in range(3):
        known = labels != VOID
        right = np.sum((labels == c) & (predictions == c))
        wrong = np.sum(known & (labels != c) & (predictions == c))
        missed = np.sum((labels == c) & (predictions != c))
        ious.append(right / (right + wrong + missed))
        accuracies.append(right / (right + missed))
    assert found["mean_iou"] == pytest.approx(np.mean(ious))
    assert found["mean_accuracy"] == pytest.approx(np.mean(accuracies))
    assert found["accuracy"] == pytest.approx(np.mean((labels == predictions)[labels != VOID]))
    assert found["iou"]["d"] is None and found["iou"]["b"] == pytest.approx(ious[1])


def test_nothing_but_void():
    empty = np.full((3, 3), VOID, np.uint8)
    found = scores(confusion_on_host(empty, np.zeros_like(empty), 2), "ab")
    assert (found["mean_iou"], found["accuracy"]) == (0, 0)
