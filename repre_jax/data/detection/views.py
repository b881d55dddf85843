"""Images and objects as the detector sees them: flipped, scaled, cropped, masks kept box by box."""

import dataclasses
import itertools
from typing import NamedTuple

import cv2
import numpy as np

from repre_jax.data.detection.annotations import Instances, bitmap

# Side of the masks in their boxes' coordinates: 0.13 % of the pixels of what the mask head is to
# say differ from those of whole masks, 0.30 % at half of it (google's tf-vision keeps 112, too).
MASK_SIDE = 112
# Of ``short_edge_window``.
_CROPPED_FROM, _CROPPED_LONGEST, _CROPS = (400, 500, 600), 4200, (384, 600)
_SMALLEST = 1e-5  # of a box's sides, detectron2's filter_empty_instances


class Window(NamedTuple):
    """What of an image is seen, and how large.

    Attributes:
      flip: whether it is mirrored first.
      scaled: (height, width) that the whole image is scaled to, in pixels.
      offset: (top, left) of the window in that.
      size: (height, width) of the window.
    """

    flip: bool
    scaled: tuple[int, int]
    offset: tuple[int, int]
    size: tuple[int, int]


class ViewedObjects(NamedTuple):
    """Objects in a window.

    Attributes:
      boxes: float32 [n, 4], (x0, y0, x1, y1) in pixels of the window.
      classes: int32 [n].
      masks: uint8 [n, ``MASK_SIDE``, ``MASK_SIDE``], 1 inside, in the boxes' coordinates.
    """

    boxes: np.ndarray
    classes: np.ndarray
    masks: np.ndarray


@dataclasses.dataclass(frozen=True)
class DetectionViews:
    """How images and their objects become arrays.

    Attributes:
      side: of the square in whose corner views lie, in pixels; the long side of ``buckets``.
      scales: of the large-scale jitter, smallest and largest, as shares of ``side``.
      short_edges: in place of the jitter, lengths of the short edge in pixels, to choose from, the
        largest of which is that at test; () for the jitter.
      longest: what the long edge may become beside them.
      crop: whether half of the views with short edges are crops.
      buckets: in place of the square, short sides of upright and of flat canvases, rising, the last
        one not below the longest short edge; () for the square.
      flip_probability: horizontal flip.
      objects: G, room for so many of an image.
    """

    side: int
    scales: tuple[float, float] = (0.1, 2.0)
    short_edges: tuple[int, ...] = ()
    longest: int = 1333
    crop: bool = False
    buckets: tuple[int, ...] = ()
    flip_probability: float = 0.5
    objects: int = 100

    def training_window(self, size: tuple[int, int], rng: np.random.Generator) -> Window:
        """A random window into an image of ``size``."""
        flip = self.flip_probability
        if not self.short_edges:
            return jittered_window(size, self.side, rng, scales=self.scales, flip_probability=flip)
        return short_edge_window(
            size,
            rng,
            short_edges=self.short_edges,
            longest=self.longest,
            crop=self.crop,
            flip_probability=flip,
        )

    def whole_window(self, size: tuple[int, int]) -> Window:
        """The window of an image of ``size`` at test."""
        if self.short_edges:
            return fitted_window(size, max(self.short_edges), self.longest)
        return fitted_window(size, self.side, self.side)

    @property
    def canvases(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of all canvases, one after another of growing area."""
        both = [((short, self.side), (self.side, short)) for short in self.buckets]
        return tuple(itertools.chain.from_iterable(both)) or ((self.side, self.side),)

    def canvas_of(self, size: tuple[int, int]) -> int:
        """Number of the smallest canvas that holds a view of ``size``."""
        fits = (height >= size[0] and width >= size[1] for height, width in self.canvases)
        return next(number for number, it_does in enumerate(fits) if it_does)


def fitted_window(size: tuple[int, int], shortest: int, longest: int) -> Window:
    """The whole image, as large as its short and its long side may become.

    Sources: detectron2, data/transforms/augmentation_impl.py, ResizeShortestEdge (ViTDet has both
    lengths the same, projects/ViTDet/configs/common/coco_loader_lsj.py); mmcv, image/geometric.py,
    imrescale, rounds the same way.
    """
    scale = min(shortest / min(size), longest / max(size))
    scaled = tuple(max(1, int(length * scale + 0.5)) for length in size)
    return Window(False, scaled, (0, 0), scaled)


def short_edge_window(
    size: tuple[int, int],
    rng: np.random.Generator,
    *,
    short_edges: tuple[int, ...],
    longest: int,
    crop: bool,
    flip_probability: float,
) -> Window:
    """A whole image at one of several sizes, or half of the time a crop of it at such a size.

    Source: Swin-Transformer-Object-Detection, configs/swin/mask_rcnn_swin_tiny_patch4_window7_
    mstrain_480-800_adamw_1x_coco.py: the crop is of 384 to 600 pixels a side, from the image with a
    short edge of 400, 500 or 600. Here both resizings are one.

    Args:
      size: (height, width) of the image.
      rng: for the draws.
      short_edges: to choose from, in pixels.
      longest: what the long edge may become.
      crop: whether there are crops.
      flip_probability: of mirroring.
    """
    flip = bool(rng.uniform() < flip_probability)
    shortest = int(rng.choice(short_edges))
    if not (crop and rng.uniform() < 0.5):
        return fitted_window(size, shortest, longest)._replace(flip=flip)
    first = fitted_window(size, int(rng.choice(_CROPPED_FROM)), _CROPPED_LONGEST).size
    low, high = _CROPS
    cut = tuple(int(rng.integers(min(s, low), min(s, high) + 1)) for s in first)
    offset = tuple(int(rng.integers(s - c + 1)) for s, c in zip(first, cut, strict=True))
    seen = fitted_window(cut, shortest, longest).size
    factors = [s / c for s, c in zip(seen, cut, strict=True)]
    scaled = tuple(max(s, round(w * f)) for s, w, f in zip(seen, first, factors, strict=True))
    place = (round(o * f) for o, f in zip(offset, factors, strict=True))
    offset = tuple(min(o, w - s) for o, w, s in zip(place, scaled, seen, strict=True))
    return Window(flip, scaled, offset, seen)


def jittered_window(
    size: tuple[int, int],
    side: int,
    rng: np.random.Generator,
    *,
    scales: tuple[float, float],
    flip_probability: float,
) -> Window:
    """Large-scale jitter: a random size about ``side``, a crop of at most ``side``.

    Source: detectron2, data/transforms/augmentation_impl.py, RandomFlip, ResizeScale and
    FixedSizeCrop, in which one draw places the crop along both axes.

    Args:
      size: (height, width) of the image.
      side: of the square that views are padded to.
      rng: for the draws.
      scales: smallest and largest size, as shares of ``side``.
      flip_probability: of mirroring.
    """
    flip = bool(rng.uniform() < flip_probability)
    target = side * rng.uniform(*scales)
    scale = min(target / length for length in size)
    scaled = tuple(max(1, round(length * scale)) for length in size)
    place = rng.uniform()
    offset = tuple(round(max(length - side, 0) * place) for length in scaled)
    return Window(flip, scaled, offset, tuple(min(length, side) for length in scaled))


def view_pixels(image: np.ndarray, window: Window, out: np.ndarray) -> None:
    """Writes what is seen of uint8 [H, W, C] into the corner of ``out``, zeros elsewhere.

    Bilinear, means of areas where it shrinks (Pillow's, which detectron2 uses, is alike).
    """
    shrinks = window.scaled[0] < image.shape[0]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    scaled = cv2.resize(image, window.scaled[::-1], interpolation=interpolation)
    if window.flip:
        scaled = scaled[:, ::-1]
    (top, left), (height, width) = window.offset, window.size
    out[:] = 0
    out[:height, :width] = scaled[top : top + height, left : left + width].reshape(
        height, width, -1
    )


def view_objects(instances: Instances, size: tuple[int, int], window: Window) -> ViewedObjects:
    """What is seen of the objects of an image of ``size``.

    A box is that of the part of the mask inside of the window; where that is all of it, the
    annotated one.
    """
    height, width = size
    scale = np.array([window.scaled[1] / width, window.scaled[0] / height])
    low = np.array(window.offset[::-1]) / scale  # of the window, in the (mirrored) image
    high = low + np.array(window.size[::-1]) / scale
    if window.flip:
        low[0], high[0] = width - high[0], width - low[0]
    boxes, classes, masks = [], [], []
    for box, number, segmentation in zip(*instances, strict=True):
        box = np.asarray(box, np.float64)
        corners = np.maximum(box[:2], low), np.minimum(box[2:], high)
        if (corners[1] - corners[0] <= 0).any():
            continue
        whole = bitmap(segmentation, size)
        if (box[:2] < low).any() or (box[2:] > high).any():
            corners = _part_inside(whole, low, high)
            if corners is None:
                continue
        seen = np.concatenate(corners)
        if ((seen[2:] - seen[:2]) * scale <= _SMALLEST).any():
            continue
        mask = _in_box(whole, seen, window.flip)
        if not mask.any():
            continue
        if window.flip:
            seen[[0, 2]] = width - seen[[2, 0]]
        boxes.append(np.tile(scale, 2) * seen - np.tile(window.offset[::-1], 2))
        classes.append(number)
        masks.append(mask)
    limit = np.tile(window.size[::-1], 2)
    return ViewedObjects(
        np.clip(np.array(boxes, np.float32).reshape(-1, 4), 0, limit).astype(np.float32),
        np.array(classes, np.int32),
        np.array(masks, np.uint8).reshape(-1, MASK_SIDE, MASK_SIDE),
    )


def _part_inside(
    mask: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Corners of the box about what of a mask lies inside of a window, None for nothing."""
    first, last = np.floor(low).astype(int), np.ceil(high).astype(int)
    first = np.maximum(first, 0)
    part = mask[first[1] : last[1], first[0] : last[0]]
    columns, rows = (np.flatnonzero(part.any(axis=axis)) for axis in (0, 1))
    if not len(columns):
        return None
    inside = np.array([columns[0], rows[0]]), np.array([columns[-1], rows[-1]]) + 1
    corners = np.maximum(first + inside[0], low), np.minimum(first + inside[1], high)
    return corners if (corners[0] < corners[1]).all() else None


def _in_box(mask: np.ndarray, box: np.ndarray, flip: bool) -> np.ndarray:
    """uint8 [``MASK_SIDE``, ``MASK_SIDE``]: a mask at the centres of the cells of a box."""
    step = (box[2:] - box[:2]) / MASK_SIDE
    start = box[:2] + step / 2 - 0.5
    if flip:
        start[0], step[0] = box[2] - step[0] / 2 - 0.5, -step[0]
    matrix = np.array([[step[0], 0, start[0]], [0, step[1], start[1]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return (cv2.warpAffine(mask * 255, matrix, (MASK_SIDE, MASK_SIDE), flags=flags) > 127).astype(
        np.uint8
    )
