"""Whole images through an encoder of fixed crops: overlapping windows, scales, flips.

Windows are added up on canvases of few sizes, so that images of many sizes take few programs.

Source: fudan-zvg/SETR, mmseg/models/segmentors/encoder_decoder.py (slide_inference, inference,
aug_test) and configs/SETR/*_MS.py.
"""

import functools
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from repre_jax.evaluation.segmentation.setr.crops import rescaled, scaled_size
from repre_jax.models.setr import centres_matrix

# (windows uint8 [b, H, W, 3], (rows, columns) of each that are of the image) -> logits [b, H, W, C]
WindowLogits = Callable[[np.ndarray, np.ndarray], jax.Array]

_STEP = 128  # pixels; sides of canvases are multiples of it


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
    """Probabilities float32 of an image's pixels, the mean over scales and flips.

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

    Returns:
      [H', W', C] with H' and W' the next multiples of 128: beyond H and W there is nothing of use.
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
    """Probabilities of one scale, at the size ``own``, as ``class_probabilities`` returns them."""
    size = image.shape[:2]
    corners = [
        (top, left)
        for top in window_corners(size[0], crop[0], stride[0])
        for left in window_corners(size[1], crop[1], stride[1])
    ]
    windows = np.zeros((-(-len(corners) // batch) * batch, *crop, 3), np.uint8)
    inside, places = np.zeros((2, len(windows), 2), np.int32)
    canvas = _rounded(max(side, least) for side, least in zip(size, crop, strict=True))
    count = np.zeros(canvas, np.float32)
    for k, (top, left) in enumerate(corners):
        part = image[top : top + crop[0], left : left + crop[1]]
        windows[k, : part.shape[0], : part.shape[1]] = part
        inside[k], places[k] = part.shape[:2], (top, left)
        count[top : top + crop[0], left : left + crop[1]] += 1
    total = None
    for start in range(0, len(windows), batch):
        some = slice(start, start + batch)
        logits = logits_of(windows[some], inside[some])
        if total is None:
            total = jnp.zeros((*canvas, logits.shape[-1]))
        total = _added(total, logits, places[some], min(batch, len(corners) - start))
    matrices = None
    if mirrored or size != own:
        rows, columns = (_resizing(*sides) for sides in zip(size, own, canvas, strict=True))
        matrices = rows, np.roll(columns[::-1], own[1], axis=0) if mirrored else columns
    return _probabilities(total, np.maximum(count, 1), matrices, shape=_rounded(own))


def _rounded(size: Iterable[int]) -> tuple[int, ...]:
    return tuple(-(-side // _STEP) * _STEP for side in size)


def _resizing(size: int, own: int, canvas: int) -> np.ndarray:
    """Matrix from a side of the canvas, of which ``size`` is the image, to ``own``, rounded up."""
    matrix = np.zeros((*_rounded([own]), canvas), np.float32)
    matrix[:own, :size] = centres_matrix(size, own)
    return matrix


@functools.partial(jax.jit, donate_argnums=0)
def _added(total: jax.Array, logits: jax.Array, places: jax.Array, windows: int) -> jax.Array:
    """The canvas with the first ``windows`` of the logits added at their places."""

    def add(k, total):
        place, shape = (*places[k], 0), logits.shape[1:]
        sum_there = jax.lax.dynamic_slice(total, place, shape) + logits[k]
        return jax.lax.dynamic_update_slice(total, sum_there, place)

    return jax.lax.fori_loop(0, windows, add, total)


@functools.partial(jax.jit, static_argnames="shape")
def _probabilities(
    total: jax.Array,
    count: jax.Array,
    matrices: tuple[jax.Array, jax.Array] | None,
    *,
    shape: tuple[int, int],
) -> jax.Array:
    """Of the sums on a canvas, resized by matrices of rows and of columns if they are given."""
    mean = total / count[..., None]
    if matrices is None:
        mean = mean[: shape[0], : shape[1]]
    else:
        highest = jax.lax.Precision.HIGHEST
        mean = jnp.einsum("yr,xc,rcd->yxd", *matrices, mean, precision=highest)
    return jax.nn.softmax(mean, axis=-1)
