"""Sizes of images: one number for a square, or (height, width)."""

from collections.abc import Sequence
from typing import Any

from repre_jax.errors import UserError

ImageSize = int | tuple[int, int]


def check_image_size(size: Any, key: str) -> None:
    """Raises UserError, which names the config's ``key``, for what is no size."""
    sides = size if isinstance(size, (tuple, list)) else (size,)
    whole = all(isinstance(x, int) and not isinstance(x, bool) and x >= 1 for x in sides)
    if not whole or len(sides) not in (1, 2) or (len(sides) == 1 and sides is size):
        raise UserError(
            f"{key}={size!r} must be a whole number of pixels, or (height, width): 224 or "
            "(224,448), without a space."
        )


def height_and_width(size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) in pixels of ``model.image_size``: of 224, or of (224, 448)."""
    if isinstance(size, int):
        return size, size
    height, width = size
    return height, width


def size_in_words(size: int | Sequence[int]) -> str:
    """ "224", or "224 x 448", height before width."""
    height, width = height_and_width(size)
    return str(height) if height == width else f"{height} x {width}"
