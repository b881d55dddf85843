"""How labels that were carried through clips are judged: mean IoU, or DAVIS's J and F."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from repre_jax.data.segmentation.label_maps import VOID
from repre_jax.evaluation.correspondence.region_and_boundary import (
    boundary_measure,
    region_similarity,
)
from repre_jax.evaluation.segmentation.confusion import confusion_on_host, scores


class MeanIoU:
    """Mean IoU over the pixels of all frames behind the first of each clip."""

    metric = "mean_iou"
    formula = (
        "mean over classes of TP / (TP + FP + FN), over the pixels of all frames but the first"
    )

    def __init__(self, class_names: Sequence[str]):
        self._names = class_names
        self._confusion = np.zeros((len(class_names), len(class_names) + 1), np.int64)

    def add(self, labels: Sequence[np.ndarray], predictions: Sequence[np.ndarray]) -> None:
        """Takes the maps [H, W] of a clip's T frames, and what the T - 1 behind the first got."""
        for truth, prediction in zip(labels[1:], predictions, strict=True):
            self._confusion += confusion_on_host(truth, prediction, len(self._names))

    def result(self) -> dict[str, Any]:
        """As ``segmentation.confusion.scores``."""
        return scores(self._confusion, self._names)


class RegionAndBoundary:
    """J and F of DAVIS 2017, semi-supervised: of every object of the first frame, then their mean.

    Neither the first nor the last frame counts, as in the official evaluation.
    """

    metric = "j_and_f"
    formula = (
        "mean of J (intersection over union) and F (F-measure of the boundaries), each the mean "
        "over objects of the mean over frames without the first and the last"
    )

    def __init__(self, class_names: Sequence[str]):
        del class_names  # objects have numbers
        self._objects: list[tuple[float, float]] = []

    def add(self, labels: Sequence[np.ndarray], predictions: Sequence[np.ndarray]) -> None:
        """Takes the maps [H, W] of a clip's T frames, and what the T - 1 behind the first got."""
        frames = list(zip(labels[1:-1], predictions[:-1], strict=True))
        first = labels[0]
        for number in range(1, int(first[first != VOID].max(initial=0)) + 1):
            pairs = []
            for truth, prediction in frames:
                counted = truth != VOID
                pairs.append(((truth == number) & counted, (prediction == number) & counted))
            regions = [region_similarity(*pair) for pair in pairs]
            boundaries = [boundary_measure(*pair) for pair in pairs]
            if pairs:
                self._objects.append((float(np.mean(regions)), float(np.mean(boundaries))))

    def result(self) -> dict[str, Any]:
        """{"j_and_f", "j", "f", "objects"}."""
        j, f = np.mean(self._objects, axis=0) if self._objects else (0.0, 0.0)
        both = {"j_and_f": float(j + f) / 2, "j": float(j), "f": float(f)}
        return both | {"objects": len(self._objects)}
