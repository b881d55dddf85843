"""Targets of the mask head from masks that are kept in the coordinates of their objects' boxes."""

import jax
import jax.numpy as jnp

from repre_jax.models.detection.roi_align import interpolation_weights

# Samples a side of each bin: a bin of a region like its object's box is 112 / 28 cells.
_SAMPLES = 4


def mask_targets(masks: jax.Array, boxes: jax.Array, regions: jax.Array, bins: int) -> jax.Array:
    """What the mask head is to say inside regions: float32 0 or 1 [..., bins, bins].

    An object's mask in the box's coordinates takes S x S numbers wherever and however large it is;
    a region's part of it is RoIAlign's, on that crop in place of the whole image (detectron2,
    structures/masks.py, BitMasks.crop_and_resize, and its threshold).

    Args:
      masks: [..., S, S], 1 inside of the object, of its box's size.
      boxes: float32 [..., 4], of the objects.
      regions: float32 [..., 4].
      bins: side of the result.
    """
    side = masks.shape[-1]
    extent = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 1e-3)  # padding has none
    low, high = ((regions[..., k : k + 2] - boxes[..., :2]) / extent * side for k in (0, 2))
    of_columns, of_rows = (
        interpolation_weights(low[..., k], high[..., k], side, bins, _SAMPLES) for k in (0, 1)
    )
    found = jnp.einsum("...yh,...hw,...xw->...yx", of_rows, masks.astype(jnp.float32), of_columns)
    return (found >= 0.5).astype(jnp.float32)
