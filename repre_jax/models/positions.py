"""Fixed 2-D sin-cos position embeddings, and the resizing of learned ones to another grid."""

import numpy as np


def sincos_2d(
    grid: tuple[int, int],
    width: int,
    *,
    columns_first: bool = False,
    temperature: float = 10000.0,
) -> np.ndarray:
    """Fixed 2-D sin-cos embedding of MoCo v3, and of MAE with ``columns_first``.

    Sources: facebookresearch/moco-v3, vits.py, build_2d_sincos_position_embedding;
    facebookresearch/mae, util/pos_embed.py. Channels are [sin(row w), cos(row w), sin(column w),
    cos(column w)] with w_i = temperature ** (-i / (D/4)), or the columns' before the rows'; tokens
    are row-major; the class token's embedding is zero.

    Args:
      grid: (gh, gw).
      width: D, divisible by 4.
      columns_first: which half of the channels tells the column.
      temperature: longest wavelength over 2 pi.

    Returns:
      float32 [1, 1 + gh*gw, D].
    """
    if width % 4:
        raise ValueError(f"sin-cos positions need a width divisible by 4, not {width}")
    frequency = temperature ** (-np.arange(width // 4) / (width // 4))
    rows, columns = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    row_angle = rows.reshape(-1, 1) * frequency
    column_angle = columns.reshape(-1, 1) * frequency
    angles = (column_angle, row_angle) if columns_first else (row_angle, column_angle)
    patches = np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)], axis=1)
    return np.concatenate([np.zeros((1, width)), patches])[None].astype(np.float32)


def resize_learned_positions(
    positions: np.ndarray,
    source: tuple[int, int],
    target: tuple[int, int],
    *,
    guard: float = 0.0,
) -> np.ndarray:
    """Learned positions for good on another grid, as MAE fine-tunes at another image size.

    Source: facebookresearch/mae, util/pos_embed.py, interpolate_pos_embed.

    Args:
      positions: float [1, 1 + gh*gw, D], the class token's first.
      source: (gh, gw), their grid.
      target: the new grid.
      guard: of ``bicubic_resize_matrix``.

    Returns:
      float [1, 1 + target[0] * target[1], D].
    """
    if source == target:
        return positions
    rows, columns = (
        bicubic_resize_matrix(old, new, guard=guard)
        for old, new in zip(source, target, strict=True)
    )
    patches = np.einsum("yr,xc,brcd->byxd", rows, columns, positions[:, 1:].reshape(1, *source, -1))
    patches = patches.reshape(1, target[0] * target[1], -1)
    return np.concatenate([positions[:, :1], patches], axis=1)


def resize_relative_table(table: np.ndarray, side: int) -> np.ndarray:
    """Swin's biases of relative positions for other windows.

    Source: microsoft/Swin-Transformer, utils.py, load_pretrained.

    Args:
      table: float [(2w - 1)**2, H].
      side: 2w - 1 of the new windows.

    Returns:
      float32 [side**2, H].
    """
    source = round(len(table) ** 0.5)
    if source == side:
        return table
    matrix = bicubic_resize_matrix(source, side, guard=0.0)
    grid = table.reshape(source, source, -1)
    return np.einsum("yr,xc,rch->yxh", matrix, matrix, grid).reshape(side**2, -1)


def bicubic_resize_matrix(source: int, target: int, *, guard: float = 0.1) -> np.ndarray:
    """Matrix that resizes a line of ``source`` embeddings to ``target`` as the official DINO does.

    Source: facebookresearch/dino, vision_transformer.py, interpolate_pos_encoding. That code calls
    torch's bicubic interpolation (kernel a = -0.75, half-pixel centres, edges clamped, no
    antialiasing) with scale (target + 0.1) / source, the 0.1 guarding the rounding of the size;
    the sampling positions inherit it. ``jax.image.resize`` differs in all of that.

    Args:
      source: length of the line.
      target: length wanted.
      guard: what is added to the target in the scale.

    Returns:
      float32 [target, source], rows sum to 1.
    """
    scale = (target + guard) / source
    matrix = np.zeros((target, source))
    for row in range(target):
        centre = (row + 0.5) / scale - 0.5
        first = int(np.floor(centre))
        for offset in range(-1, 3):
            distance = abs(centre - (first + offset))
            matrix[row, np.clip(first + offset, 0, source - 1)] += _cubic(distance)
    return matrix.astype(np.float32)


def _cubic(x: float, a: float = -0.75) -> float:
    """Keys' cubic convolution kernel at distance ``x`` in [0, 2]."""
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
