"""Maps [B, gh, gw, D] as windows of attention, and back."""

import jax
import jax.numpy as jnp


def pad_to_multiple(x: jax.Array, multiple: int) -> jax.Array:
    """[B, rows, columns, C] with zeros right and bottom, up to a multiple of both sides."""
    bottom, right = (-side % multiple for side in x.shape[1:3])
    if not (bottom or right):
        return x
    return jnp.pad(x, ((0, 0), (0, bottom), (0, right), (0, 0)))


def to_windows(x: jax.Array, window: int) -> jax.Array:
    """[B, gh, gw, C] -> [B, windows, w*w, C], both row by row."""
    batch, rows, columns, width = x.shape
    x = x.reshape(batch, rows // window, window, columns // window, window, width)
    return x.swapaxes(2, 3).reshape(batch, -1, window**2, width)


def from_windows(x: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """[B, windows, w*w, C] -> [B, gh, gw, C]."""
    batch, _, area, width = x.shape
    window = round(area**0.5)
    x = x.reshape(batch, grid[0] // window, grid[1] // window, window, window, width)
    return x.swapaxes(2, 3).reshape(batch, *grid, width)
