"""Generated images of discs, squares and triangles in COCO's format: what can be learnt quickly."""

import json
from pathlib import Path

import cv2
import numpy as np

CLASSES = ("disc", "square", "triangle")
_TRIES = 50


def write_shapes(
    root: Path, *, train: int, val: int, side: int, most: int = 4, smallest: float = 0.15
) -> None:
    """Makes annotations/instances_{train,val}.json and {train,val}/*.png under ``root``.

    Args:
      root: folder.
      train, val: images.
      side: of them, in pixels.
      most: objects of an image, from one on.
      smallest: diameter of an object as a share of the side; the largest is 3 times that.
    """
    for split, count, seed in (("train", train, 0), ("val", val, 1)):
        rng = np.random.default_rng(seed)
        (root / split).mkdir(parents=True)
        images, annotations = [], []
        for number in range(count):
            image, objects = _image(rng, side, most, smallest)
            name = f"{number:04d}.png"
            cv2.imwrite(str(root / split / name), image)
            images.append({"id": number + 1, "file_name": name, "height": side, "width": side})
            for kind, outline in objects:
                annotations.append(_annotation(len(annotations) + 1, number + 1, kind, outline))
        (root / "annotations").mkdir(exist_ok=True)
        categories = [{"id": k + 1, "name": name} for k, name in enumerate(CLASSES)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def _image(rng, side, most, smallest):
    """(uint8 [side, side, 3] of noise with objects that do not touch, [(kind, outline [n, 2])])."""
    image = rng.integers(0, 80, 3) + rng.integers(0, 40, (side, side, 3))
    image = np.ascontiguousarray(image.astype(np.uint8))
    taken, objects = [], []
    for _ in range(rng.integers(1, most + 1)):
        for _ in range(_TRIES):
            radius = side * smallest * rng.uniform(1, 3) / 2
            centre = rng.uniform(radius, side - radius, 2)
            if all(np.abs(centre - c).max() > radius + r for c, r in taken):
                break
        else:
            continue
        taken.append((centre, radius))
        kind = int(rng.integers(len(CLASSES)))
        outline = _outline(kind, centre, radius)
        colour = [int(x) for x in rng.integers(120, 256, 3)]
        cv2.fillPoly(image, [np.round(outline).astype(np.int32)], colour)
        objects.append((kind, outline))
    return image, objects


def _outline(kind: int, centre: np.ndarray, radius: float) -> np.ndarray:
    """float [n, 2] (x, y)."""
    corners = {0: 32, 1: 4, 2: 3}[kind]
    turn = {0: 0.0, 1: np.pi / 4, 2: -np.pi / 2}[kind]  # upright
    angles = turn + 2 * np.pi * np.arange(corners) / corners
    return centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _annotation(number: int, image: int, kind: int, outline: np.ndarray) -> dict:
    low, high = outline.min(axis=0), outline.max(axis=0)
    return {
        "id": number,
        "image_id": image,
        "category_id": kind + 1,
        "iscrowd": 0,
        "area": float(cv2.contourArea(outline.astype(np.float32))),
        "bbox": [float(x) for x in (*low, *(high - low))],
        "segmentation": [[round(float(x), 2) for x in outline.reshape(-1)]],
    }
