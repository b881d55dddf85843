"""Sizes of images: one number for a square, or (height, width)."""

from collections.abc import Sequence

from repre_jax.errors import UserError

ImageSize = int | tuple[int, int]


def check_image_size(size: int | Sequence[int], key: str) -> None:
    """Raises UserError, which names the config's ``key``, for neither one number nor two."""
    if not isinstance(size, int) and len(size) != 2:
        raise UserError(f"{key}={size} must be one number of pixels, or (height, width).")


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
