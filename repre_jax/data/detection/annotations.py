"""An annotation file in COCO's format (cocodataset.org/#format-data), packed into arrays.

As Python's lists and numbers those of COCO's training images would take gigabytes, in every worker.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as rle

from repre_jax.errors import UserError


class Categories(NamedTuple):
    """What the classes are: id and name of each, by rising id."""

    ids: tuple[int, ...]
    names: tuple[str, ...]


class Instances(NamedTuple):
    """The objects of an image.

    Attributes:
      boxes: float32 [n, 4], (x0, y0, x1, y1) in pixels.
      classes: int32 [n], numbers among the categories.
      segmentations: of each, polygons as float32 [k, 2] of (x, y), or a run-length encoding as
        pycocotools has it.
    """

    boxes: np.ndarray
    classes: np.ndarray
    segmentations: list[list[np.ndarray] | dict[str, Any]]


class Annotations(NamedTuple):
    """What an annotation file says.

    Attributes:
      path: of the file.
      categories: its classes.
      image_ids: int64 [images].
      image_names: of the files.
      sizes: int32 [images, 2], (height, width).
      order: int64 [n], numbers of the objects, those of an image together.
      ends: int64 [images], where those of each image end in ``order``.
      boxes: float32 [n, 4], (x0, y0, x1, y1).
      classes: int32 [n].
      crowd: bool [n], whether it stands for many.
      areas: float32 [n], of the masks.
      points: float32 [p, 2], (x, y) of all polygons, one after the other.
      polygon_ends: int64 [polygons], in ``points``.
      object_ends: int64 [n], of each object's polygons.
      encodings: number of an object -> run-length encoding, where it has no polygons.
    """

    path: Path
    categories: Categories
    image_ids: np.ndarray
    image_names: tuple[str, ...]
    sizes: np.ndarray
    order: np.ndarray
    ends: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    points: np.ndarray
    polygon_ends: np.ndarray
    object_ends: np.ndarray
    encodings: Mapping[int, dict[str, Any]]

    def numbers_of(self, image: int) -> np.ndarray:
        """Numbers of the objects of an image, by its number."""
        start = self.ends[image - 1] if image else 0
        return self.order[start : self.ends[image]]

    def instances(self, numbers: np.ndarray) -> Instances:
        """Objects by their numbers."""
        segmentations = [self._segmentation(int(number)) for number in numbers]
        return Instances(self.boxes[numbers], self.classes[numbers], segmentations)

    def _segmentation(self, number: int) -> list[np.ndarray] | dict[str, Any]:
        if number in self.encodings:
            return self.encodings[number]
        first = self.object_ends[number - 1] if number else 0
        polygons = []
        for polygon in range(first, self.object_ends[number]):
            start = self.polygon_ends[polygon - 1] if polygon else 0
            polygons.append(self.points[start : self.polygon_ends[polygon]])
        return polygons


def bitmap(segmentation: list[np.ndarray] | dict[str, Any], size: Sequence[int]) -> np.ndarray:
    """uint8 [height, width], 1 inside of the object, as pycocotools draws it."""
    height, width = map(int, size)
    if isinstance(segmentation, dict):
        return rle.decode(segmentation)
    polygons = [np.asarray(polygon, np.float64).reshape(-1).tolist() for polygon in segmentation]
    return rle.decode(rle.merge(rle.frPyObjects(polygons, height, width)))


def read_annotations(path: Path) -> Annotations:
    """Reads an annotation file.

    Raises:
      UserError: it cannot be read, lacks what it must have, or names what it does not list.
    """
    try:
        content = json.loads(path.read_bytes())
        return _packed(path, content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        told = f"there is no {error}" if isinstance(error, KeyError) else error
        raise UserError(
            f"{path} cannot be read as annotations in COCO's format ({told}): it must be JSON with "
            "images, categories and annotations that have a bbox and a segmentation."
        ) from error


def _packed(path: Path, content: dict[str, Any]) -> Annotations:
    categories = sorted(content["categories"], key=lambda category: category["id"])
    ids = tuple(int(category["id"]) for category in categories)
    images = sorted(content["images"], key=lambda image: image["id"])
    image_ids = np.array([image["id"] for image in images], np.int64)
    found = content["annotations"]
    for kind, numbers in (("category", ids), ("image", image_ids.tolist())):
        if not numbers:
            raise ValueError(f"it lists no {kind}")
        known = set(numbers)
        if len(known) < len(numbers):
            raise ValueError(f"two of its entries have the same {kind} id")
        unknown = {one[f"{kind}_id"] for one in found} - known
        if unknown:
            raise ValueError(f"{kind} {min(unknown)} is annotated and not listed")
    number_of = {own: number for number, own in enumerate(ids)}
    of_image = np.searchsorted(image_ids, [one["image_id"] for one in found]).astype(np.int64)
    order = np.argsort(of_image, kind="stable")
    boxes = np.array([one["bbox"] for one in found], np.float32).reshape(len(found), 4)
    boxes[:, 2:] += boxes[:, :2]
    areas = [_area(one) for one in found]
    return Annotations(
        path,
        Categories(ids, tuple(str(category["name"]) for category in categories)),
        image_ids,
        tuple(str(image["file_name"]) for image in images),
        np.array([(image["height"], image["width"]) for image in images], np.int32),
        order,
        np.cumsum(np.bincount(of_image, minlength=len(images))),
        boxes,
        np.array([number_of[one["category_id"]] for one in found], np.int32),
        np.array([bool(one.get("iscrowd", 0)) for one in found], bool),
        np.array(areas, np.float32),
        *_packed_segmentations(found, images, of_image),
    )


def _area(annotation: dict[str, Any]) -> float:
    _, _, width, height = annotation["bbox"]
    return float(annotation.get("area", width * height))


def _packed_segmentations(found, images, of_image):
    points, polygon_ends, object_ends, encodings = [], [], [], {}
    end = 0
    for number, annotation in enumerate(found):
        segmentation = annotation.get("segmentation") or []
        if isinstance(segmentation, dict):
            image = images[of_image[number]]
            encodings[number] = _compressed(segmentation, image["height"], image["width"])
        else:
            for polygon in segmentation:
                # Two points enclose nothing, and pycocotools takes four numbers for a box.
                if len(polygon) >= 6:
                    flat = np.asarray(polygon, np.float32).reshape(-1, 2)
                    points.append(flat)
                    end += len(flat)
                    polygon_ends.append(end)
        object_ends.append(len(polygon_ends))
    return (
        np.concatenate(points) if points else np.zeros((0, 2), np.float32),
        np.array(polygon_ends, np.int64),
        np.array(object_ends, np.int64),
        encodings,
    )


def _compressed(segmentation: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """A run-length encoding whose counts are bytes."""
    counts = segmentation["counts"]
    if isinstance(counts, list):
        return rle.frPyObjects(segmentation, height, width)
    counts = counts.encode() if isinstance(counts, str) else counts
    return {"size": list(segmentation["size"]), "counts": counts}
