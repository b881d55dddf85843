"""Whole images through an encoder of fixed crops: overlapping windows, scales, flips.

Source: fudan-zvg/SETR, mmseg/models/segmentors/encoder_decoder.py (slide_inference, inference,
aug_test) and configs/SETR/*_MS.py.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from repre_jax.evaluation.segmentation.setr.crops import rescaled, scaled_size
from repre_jax.models.setr import resize

# (windows uint8 [b, H, W, 3], (rows, columns) of each that are of the image) -> logits [b, H, W, C]
WindowLogits = Callable[[np.ndarray, np.ndarray], jax.Array]


def window_corners(length: int, crop: int, stride: int) -> list[int]:
    """Where windows begin along a side; the last one is moved back so that it fits."""
    count = max(length - crop + stride - 1, 0) // stride + 1
    return [max(min(k * stride + crop, length) - crop, 0) for k in range(count)]


def class_probabilities(
    logits_of: WindowLogits,
    image: np.ndarray,
    *,
    crop: tuple[int, int],
    stride: tuple[int, int],
    batch: int,
    base: tuple[int, int] | None,
    scales: Sequence[float] = (1.0,),
    flipped: bool = False,
) -> jax.Array:
    """Probabilities float32 [H, W, C] of an image's pixels, the mean over scales and flips.

    Logits of windows are summed, divided by how many cover a pixel and resized to the image; then
    comes the softmax, and the mean over scales. An image smaller than the crop is one window, whose
    part beyond the image is zero behind the normalisation; where other scales than 1 are asked for,
    as in the multi-scale configs, its short side is raised to the crop's.

    Args:
      logits_of: of windows, ``batch`` at a time.
      image: uint8 [H, W, 3].
      crop, stride: (height, width) of windows and between them.
      batch: windows at a time.
      base: of ``crops.CropRecipe``.
      scales: of the image.
      flipped: whether each scale is seen mirrored, too.
    """
    own = image.shape[:2]
    total = 0
    for scale in scales:
        size = scaled_size(own, base, scale)
        if (
            tuple(scales) != (1.0,)
            and (lack := max(c / s for c, s in zip(crop, size, strict=True))) > 1
        ):
            size = tuple(int(np.ceil(side * lack)) for side in size)
        pixels = rescaled(image, size) if size != own else image
        for mirrored in (False, True) if flipped else (False,):
            seen = np.ascontiguousarray(pixels[:, ::-1]) if mirrored else pixels
            total = total + _slide(logits_of, seen, crop, stride, batch, own, mirrored)
    return total / (len(scales) * (2 if flipped else 1))


def _slide(logits_of, image, crop, stride, batch, own, mirrored) -> jax.Array:
    """Probabilities [H, W, C], at the size ``own``, of one scale."""
    corners = tuple(
        (top, left)
        for top in window_corners(image.shape[0], crop[0], stride[0])
        for left in window_corners(image.shape[1], crop[1], stride[1])
    )
    windows = np.zeros((-(-len(corners) // batch) * batch, *crop, 3), np.uint8)
    inside = np.zeros((len(windows), 2), np.int32)
    for k, (top, left) in enumerate(corners):
        part = image[top : top + crop[0], left : left + crop[1]]
        windows[k, : part.shape[0], : part.shape[1]] = part
        inside[k] = part.shape[:2]
    logits = [
        logits_of(windows[start : start + batch], inside[start : start + batch])
        for start in range(0, len(windows), batch)
    ]
    return _merged(logits, corners=corners, size=image.shape[:2], own=own, mirrored=mirrored)


@functools.partial(jax.jit, static_argnames=("corners", "size", "own", "mirrored"))
def _merged(
    logits: list[jax.Array],
    *,
    corners: tuple[tuple[int, int], ...],
    size: tuple[int, int],
    own: tuple[int, int],
    mirrored: bool,
) -> jax.Array:
    """The windows' logits as probabilities of the image's pixels."""
    logits = jnp.concatenate(logits)
    height, width = logits.shape[1:3]
    canvas = [max(side, crop) for side, crop in zip(size, (height, width), strict=True)]
    total, count = jnp.zeros((*canvas, logits.shape[3])), np.zeros(canvas, np.float32)
    for k, (top, left) in enumerate(corners):
        total = total.at[top : top + height, left : left + width].add(logits[k])
        count[top : top + height, left : left + width] += 1
    mean = (total / count[..., None])[: size[0], : size[1]]
    probabilities = jax.nn.softmax(resize(mean[None], own)[0], axis=-1)
    return probabilities[:, ::-1] if mirrored else probabilities
