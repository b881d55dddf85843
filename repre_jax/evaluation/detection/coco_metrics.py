"""Detections as COCO counts them: masks pasted into images, and the twelve numbers of its API.

faster_coco_eval computes the same numbers faster and is used where it is installed.
"""

import contextlib
import importlib
import importlib.util
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as rle

# Of COCOeval.summarize, in its order.
NAMES = (
    "AP",
    "AP50",
    "AP75",
    "AP_small",
    "AP_medium",
    "AP_large",
    "AR_1",
    "AR_10",
    "AR_100",
    "AR_small",
    "AR_medium",
    "AR_large",
)
KINDS = {"box": "bbox", "mask": "segm"}
_THRESHOLD = 0.5


class Found(NamedTuple):
    """What was found in an image.

    Attributes:
      boxes: float [n, 4], (x0, y0, x1, y1) in pixels of the image as it is stored.
      scores: float [n].
      classes: int [n].
      masks: float [n, S, S], probabilities in the boxes' coordinates.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    masks: np.ndarray


def pasted(mask: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W], 1 where a mask is more likely than not.

    The mask's number k is at the share (k + 0.5) / S of the box; between them it is bilinear, and
    beyond them zero. Source: detectron2, layers/mask_ops.py (grid_sample, zeros outside).

    Args:
      mask: float [S, S].
      box: float [4], in pixels.
      size: (H, W) of the image.
    """
    whole = np.zeros(size, np.uint8)
    x0, y0, x1, y1 = (float(edge) for edge in box)
    # No further than half a cell of the mask beyond the box is there anything.
    reach = 0.5 / len(mask)
    spans = []
    for low, high, limit in ((y0, y1, size[0]), (x0, x1, size[1])):
        extent = max(high - low, 1e-6)
        first = int(np.clip(np.floor(low - reach * extent - 0.5), 0, limit))
        last = int(np.clip(np.ceil(high + reach * extent + 0.5), 0, limit))
        place = (np.arange(first, last) + 0.5 - low) / extent * len(mask) - 0.5
        weights = np.maximum(1 - np.abs(place[:, None] - np.arange(len(mask))), 0)
        spans.append((slice(first, last), weights.astype(np.float32)))
    (rows, of_rows), (columns, of_columns) = spans
    whole[rows, columns] = of_rows @ mask.astype(np.float32) @ of_columns.T >= _THRESHOLD
    return whole


def coco_results(
    found: Found, *, image_id: int, size: tuple[int, int], category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Detections in COCO's format: "bbox" (x, y, width, height) and "segmentation"."""
    results = []
    for box, score, number, mask in zip(*found, strict=True):
        encoded = rle.encode(np.asfortranarray(pasted(mask, box, size)))
        x0, y0, x1, y1 = (float(edge) for edge in box)
        results.append(
            {
                "image_id": image_id,
                "category_id": int(category_ids[number]),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "score": float(score),
                "segmentation": {**encoded, "counts": encoded["counts"].decode()},
            }
        )
    return results


def average_precisions(
    annotations: Path, results: Sequence[Mapping[str, Any]], image_ids: Sequence[int]
) -> dict[str, dict[str, float]]:
    """{"box": {name: value of ``NAMES``}, "mask": ...}; -1 of sizes that no object has.

    Args:
      annotations: path of the file.
      results: of ``coco_results``, of all images together.
      image_ids: of the images that count.
    """
    coco, evaluator = _library()
    found = {}
    with contextlib.redirect_stdout(io.StringIO()):  # tables, which results.json holds
        truth = coco()
        truth.dataset = _complete(json.loads(annotations.read_bytes()))
        truth.createIndex()
        for kind, name in KINDS.items():
            # Without the other kind: loadRes takes a mask's area from a box where there is one.
            other = "segmentation" if kind == "box" else "bbox"
            given = [{k: v for k, v in one.items() if k != other} for one in results]
            if given:
                found_there = truth.loadRes(given)
            else:  # which loadRes refuses
                found_there = coco()
                found_there.dataset = truth.dataset | {"annotations": []}
                found_there.createIndex()
            evaluation = evaluator(truth, found_there, name)
            evaluation.params.imgIds = sorted(image_ids)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            found[kind] = dict(zip(NAMES, map(float, evaluation.stats), strict=False))
    return found


def _complete(content: dict[str, Any]) -> dict[str, Any]:
    """An annotation file's content with what the libraries ask for and exports may lack.

    Objects without a mask, which nobody could have been taught, do not count.
    """
    kept = []
    for number, annotation in enumerate(content["annotations"]):
        segmentation = annotation.get("segmentation") or []
        if not isinstance(segmentation, dict):
            # As in data.detection.annotations: pycocotools takes four numbers for a box.
            segmentation = [polygon for polygon in segmentation if len(polygon) >= 6]
        if segmentation:
            _, _, width, height = annotation["bbox"]
            usual = {"id": number + 1, "area": width * height, "iscrowd": 0}
            kept.append(usual | annotation | {"segmentation": segmentation})
    return content | {"annotations": kept}


def _library() -> tuple[Any, Any]:
    """(COCO, COCOeval)."""
    if importlib.util.find_spec("faster_coco_eval"):
        faster = importlib.import_module("faster_coco_eval")
        return faster.COCO, faster.COCOeval_faster
    return (
        importlib.import_module("pycocotools.coco").COCO,
        importlib.import_module("pycocotools.cocoeval").COCOeval,
    )
