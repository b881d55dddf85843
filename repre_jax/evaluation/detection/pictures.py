"""Pictures of what was found: boxes and masks on images, beside what is there."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from repre_jax.data.detection.annotations import bitmap
from repre_jax.data.detection.coco import CocoSource
from repre_jax.evaluation.detection.coco_metrics import Found, pasted
from repre_jax.evaluation.pictures import save_picture

_SIDE = 480  # of an image in the picture, its longer one
_LIKELY = 0.5  # scores from which on a detection is drawn
_GOLDEN = 0.618  # hues so far apart that no two classes next to each other look alike


def draw_detections(path: Path, source: CocoSource, found: Sequence[tuple[int, Found]]) -> None:
    """Writes a PNG with a row an image: what is annotated, and what was found.

    Args:
      path: of the file.
      source: of the images.
      found: (index of the image, what was found in it), of images that can be read.

    Raises:
      UserError: disk full or no permission.
    """
    rows = []
    for index, detections in found:
        image = source.read(index)
        truth = source.instances(index)
        size = image.shape[:2]
        annotated = [bitmap(segmentation, size) for segmentation in truth.segmentations]
        names = [source.class_names[number] for number in truth.classes]
        left = _drawn(image, truth.boxes, truth.classes, annotated, names)
        likely = detections.scores >= _LIKELY
        boxes, scores, classes, masks = (part[likely] for part in detections)
        names = [
            f"{source.class_names[c]} {score:.2f}" for c, score in zip(classes, scores, strict=True)
        ]
        pairs = zip(masks, boxes, strict=True)
        right = _drawn(image, boxes, classes, [pasted(m, b, size) for m, b in pairs], names)
        rows.append(np.concatenate([left, right], axis=1))
    widest = max(row.shape[1] for row in rows)
    rows = [np.pad(r, ((0, 8), (0, widest - r.shape[1]), (0, 0))) for r in rows]
    save_picture(path, np.concatenate(rows))


def _drawn(image, boxes, classes, bitmaps, names) -> np.ndarray:
    """uint8 [h, w, 3]: an image with masks, boxes and names over it, of a usual size."""
    picture = image.astype(np.float32)
    colours = [_colour(number) for number in classes]
    for whole, colour in zip(bitmaps, colours, strict=True):
        inside = whole.astype(bool)
        picture[inside] = 0.5 * picture[inside] + 0.5 * colour
    scale = _SIDE / max(image.shape[:2])
    picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    picture = np.ascontiguousarray(np.clip(picture, 0, 255).astype(np.uint8))
    for box, colour, name in zip(boxes, colours, names, strict=True):
        x0, y0, x1, y1 = (round(float(edge) * scale) for edge in box)
        shade = tuple(map(int, colour))
        cv2.rectangle(picture, (x0, y0), (x1, y1), shade, 2)
        place = (x0 + 2, max(y0 - 3, 10))
        cv2.putText(picture, name, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, shade, 1, cv2.LINE_AA)
    return picture


def _colour(number: int) -> np.ndarray:
    """float32 [3] of a class."""
    hue = np.uint8([[[round(180 * (number * _GOLDEN % 1)) % 180, 200, 255]]])
    return cv2.cvtColor(hue, cv2.COLOR_HSV2RGB)[0, 0].astype(np.float32)
