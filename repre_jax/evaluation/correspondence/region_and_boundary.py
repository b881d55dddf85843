"""J and F of DAVIS: how well masks agree in region and along their boundaries.

Source: davisvideochallenge/davis2017-evaluation, davis2017/metrics.py and evaluation.py.
"""

import math

import cv2
import numpy as np

_BOUNDARY_WIDTH = 0.008  # of the frame's diagonal


def region_similarity(truth: np.ndarray, prediction: np.ndarray) -> float:
    """J: intersection over union of two masks, bool [H, W]; 1 where both are empty."""
    union = np.sum(truth | prediction)
    return float(np.sum(truth & prediction) / union) if union else 1.0


def boundary_measure(truth: np.ndarray, prediction: np.ndarray) -> float:
    """F: harmonic mean of the boundaries' precision and recall, each up to 0.8 % of the diagonal.

    Args:
      truth, prediction: bool [H, W].
    """
    radius = math.ceil(_BOUNDARY_WIDTH * math.hypot(*truth.shape))
    offsets = np.arange(-radius, radius + 1)
    disk = (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.uint8)
    of_truth, of_prediction = boundary(truth), boundary(prediction)
    near_truth, near_prediction = (
        cv2.dilate(x.astype(np.uint8), disk).astype(bool) for x in (of_truth, of_prediction)
    )
    there, given = of_truth.sum(), of_prediction.sum()
    precision, recall = 1.0, 1.0  # of nothing; with nothing on one side alone the other is 0
    if given:
        precision = float(np.sum(of_prediction & near_truth) / given)
    if there:
        recall = float(np.sum(of_truth & near_prediction) / there)
    total = precision + recall
    return 2 * precision * recall / total if total else 0.0


def boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels of bool [H, W] that differ from their neighbour at the right, below or both ways."""
    right, below, across = (np.zeros_like(mask) for _ in range(3))
    right[:, :-1], below[:-1], across[:-1, :-1] = mask[:, 1:], mask[1:], mask[1:, 1:]
    edges = (mask ^ right) | (mask ^ below) | (mask ^ across)
    edges[-1] = mask[-1] ^ right[-1]
    edges[:, -1] = mask[:, -1] ^ below[:, -1]
    edges[-1, -1] = False
    return edges
