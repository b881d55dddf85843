"""Which classes pixels have, and which they are given: one matrix, and every score from it."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from repre_jax.data.segmentation.label_maps import VOID


def confusion_matrix(labels: jax.Array, predictions: jax.Array, classes: int) -> jax.Array:
    """How many pixels of class i are given class j: int32 [C, C + 1]; void does not count.

    The last column is of pixels that are given no class. Of fewer than 2**31 pixels; sums over
    images are for the host, in int64.

    Args:
      labels: integers of any shape, ``VOID`` for pixels without a class.
      predictions: classes, of the same shape, ``VOID`` for none.
      classes: C.
    """
    given = jnp.minimum(predictions.astype(jnp.int32), classes)
    end = classes * (classes + 1)
    places = jnp.where(labels == VOID, end, labels.astype(jnp.int32) * (classes + 1) + given)
    return jnp.bincount(places.ravel(), length=end + 1)[:-1].reshape(classes, classes + 1)


def confusion_on_host(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """The same of one image in NumPy: int64 [C, C + 1]."""
    known = labels != VOID
    given = np.minimum(predictions[known].astype(np.int64), classes)
    places = labels[known].astype(np.int64) * (classes + 1) + given
    shape = (classes, classes + 1)
    return np.bincount(places, minlength=shape[0] * shape[1]).reshape(shape)


def scores(confusion: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Means and every class's own scores, as the field reports them.

    IoU of a class = TP / (TP + FP + FN), its accuracy = TP / (TP + FN). Means are over the classes
    that there are: those with neither a pixel nor a prediction (an accuracy: without a pixel) are
    left out, as mmsegmentation does (fudan-zvg/SETR, mmseg/core/evaluation/mean_iou.py).

    Args:
      confusion: int [C, C + 1] of ``confusion_matrix``.
      names: of the classes.

    Returns:
      {"mean_iou", "mean_accuracy", "accuracy": share of all pixels, "iou": {name: ...},
      "class_accuracy": {name: ...}}; None for a class that there is not.
    """
    counts = np.asarray(confusion, np.float64)
    right, truth, given = np.diag(counts), counts.sum(axis=1), counts[:, :-1].sum(axis=0)
    union = truth + given - right
    iou = np.divide(right, union, out=np.full(len(right), np.nan), where=union > 0)
    accuracy = np.divide(right, truth, out=np.full(len(right), np.nan), where=truth > 0)
    return {
        "mean_iou": _mean(iou),
        "mean_accuracy": _mean(accuracy),
        "accuracy": float(right.sum() / max(truth.sum(), 1)),
        "iou": _named(names, iou),
        "class_accuracy": _named(names, accuracy),
    }


def _named(names: Sequence[str], values: np.ndarray) -> dict[str, float | None]:
    return {n: None if np.isnan(x) else float(x) for n, x in zip(names, values, strict=True)}


def _mean(values: np.ndarray) -> float:
    """Of those that there are, 0 without any."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else 0.0
