"""Anchors: the boxes that the region proposals start from.

Source: detectron2, modeling/anchor_generator.py (offset 0), and configs/common/models/
mask_rcnn_fpn.py; mmdetection's are the same (core/anchor/anchor_generator.py): areas of (8 x
stride)**2, heights over widths of 1/2, 1 and 2, centred on the top left corner of each cell.
"""

from collections.abc import Sequence

import numpy as np

RATIOS = (0.5, 1.0, 2.0)
SCALE = 8  # sides of square anchors, in strides


def level_anchors(grid: tuple[int, int], stride: int, *, scale: float = SCALE) -> np.ndarray:
    """float32 [gh * gw * 3, 4], row by row, the ratios of a cell side by side.

    Args:
      grid: (gh, gw), cells of the level.
      stride: pixels per side that a cell stands for.
      scale: side of a square anchor in strides.
    """
    side = scale * stride
    half = [(side / ratio**0.5 / 2, side * ratio**0.5 / 2) for ratio in RATIOS]  # of (w, h)
    cell = np.array([(-w, -h, w, h) for w, h in half])
    y, x = np.meshgrid(*(np.arange(cells) * stride for cells in grid), indexing="ij")
    corners = np.stack([x, y, x, y], axis=-1).reshape(-1, 1, 4)
    return (corners + cell).reshape(-1, 4).astype(np.float32)


def all_anchors(
    grids: Sequence[tuple[int, int]], strides: Sequence[int], *, scale: float = SCALE
) -> list[np.ndarray]:
    """``level_anchors`` of every level."""
    return [level_anchors(g, stride, scale=scale) for g, stride in zip(grids, strides, strict=True)]
