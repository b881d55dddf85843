"""RoIAlign (Mask R-CNN, section 3) as two products with interpolation matrices.

Averages of bilinear samples are linear in the map, and separate into rows and columns: a region's
bins are Wy @ map @ Wx'. Matrix products and their gradients are what accelerators are made for;
gathering samples is not, and its gradient is a scatter. Coordinates are continuous ("aligned": a
vector stands for its cell's centre), samples outside of the map by more than a cell are 0, others
are clamped, as in torchvision's and detectron2's operator.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

# detectron2 and mmdetection take as many samples a bin as it has cells; torchvision takes 2.
SAMPLES = 2
_CHUNK = 64  # regions at a time: the product with the rows is 7 x W x C numbers for each
_SIDE = 224 / 16  # of a region that is too large for a level, in the level's strides


def roi_align(
    levels: Sequence[jax.Array],
    strides: Sequence[int],
    boxes: jax.Array,
    bins: int,
    *,
    samples: int = SAMPLES,
) -> jax.Array:
    """Features of regions, each from the level that fits its size.

    Args:
      levels: maps [B, gh, gw, C], fine to coarse, each of half the resolution of the one before.
      strides: pixels per side that a vector of each stands for.
      boxes: float32 [B, R, 4] in pixels.
      bins: side of the result.
      samples: a side of each bin.

    Returns:
      [B, R, bins, bins, C] in the maps' dtype; 0 for boxes outside of them.
    """
    batch, regions, _ = boxes.shape
    chunk = min(_CHUNK, regions)
    padded = jnp.pad(boxes, ((0, 0), (0, -regions % chunk), (0, 0)))
    chunks = padded.reshape(batch, -1, chunk, 4).swapaxes(0, 1)

    @jax.checkpoint
    def align(boxes):
        return _align_chunk(levels, strides, boxes, bins, samples)

    aligned = jax.lax.map(align, chunks) if len(chunks) > 1 else align(chunks[0])[None]
    aligned = aligned.swapaxes(0, 1).reshape(batch, -1, *aligned.shape[3:])
    return aligned[:, :regions]


def level_of(boxes: jax.Array, levels: int, *, finest: int = 4) -> jax.Array:
    """int32 [...], 0 for the finest: regions of 224 pixels belong to stride 16 (FPN, equation 1).

    ``finest`` is the stride of level 0.
    """
    extent = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    side = jnp.sqrt(extent[..., 0] * extent[..., 1])
    # The small number is mmdetection's (roi_extractors/single_level_roi_extractor.py); detectron2's
    # is that of float64.
    level = jnp.floor(jnp.log2(jnp.maximum(side / (_SIDE * finest), 1e-8) + 1e-6))
    return jnp.clip(level, 0, levels - 1).astype(jnp.int32)


def interpolation_weights(
    start: jax.Array, stop: jax.Array, cells: int, bins: int, samples: int
) -> jax.Array:
    """How much each cell of a line takes part in each bin between two points of it.

    Args:
      start, stop: float32 [...], in cells, 0 at the edge of the first one.
      cells: on the line.
      bins: that the part between start and stop is cut into.
      samples: evenly spread, whose mean a bin is.

    Returns:
      float32 [..., bins, cells].
    """
    share = (jnp.arange(bins * samples) + 0.5) / (bins * samples)
    position = start[..., None] + share * (stop - start)[..., None] - 0.5
    inside = (position >= -1) & (position <= cells)
    position = jnp.clip(position, 0, cells - 1)[..., None]
    weights = jnp.maximum(1 - jnp.abs(position - jnp.arange(cells)), 0) * inside[..., None]
    return weights.reshape(*start.shape, bins, samples, cells).mean(axis=-2)


def _align_chunk(levels, strides, boxes, bins, samples):
    """[B, R, bins, bins, C] of boxes [B, R, 4]."""
    level = level_of(boxes, len(levels), finest=strides[0])
    total = 0
    for number, (features, stride) in enumerate(zip(levels, strides, strict=True)):
        rows, columns = features.shape[1:3]
        x0, y0, x1, y1 = jnp.moveaxis(boxes / stride, -1, 0)
        of_rows = interpolation_weights(y0, y1, rows, bins, samples)
        of_columns = interpolation_weights(x0, x1, columns, bins, samples)
        of_rows = of_rows * (level == number)[..., None, None]
        of_rows, of_columns = (w.astype(features.dtype) for w in (of_rows, of_columns))
        across = jnp.einsum("brth,bhwc->brtwc", of_rows, features)
        total = total + jnp.einsum("brtwc,bruw->brtuc", across, of_columns)
    return total
