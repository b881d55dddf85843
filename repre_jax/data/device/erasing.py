"""Random erasing (arXiv 1708.04896): a box of each image becomes noise, on the device.

As timm's ``RandomErasing`` in mode "pixel" with one box (timm/data/random_erasing.py): applied to
normalised images, noise of mean 0 and variance 1, from 2 % to a third of the image, aspect ratio
from 0.3 to 1 / 0.3.
"""

import math

import jax
import jax.numpy as jnp

_AREA = (0.02, 1 / 3)  # share of the image
_LOG_ASPECT = (math.log(0.3), math.log(1 / 0.3))  # of height / width
_TRIES = 10  # then an image stays whole


def erase(key: jax.Array, image: jax.Array, probability: float) -> jax.Array:
    """Erases a box of one normalised image [H, W, 3] with that probability."""
    use_key, box_key, noise_key = jax.random.split(key, 3)
    height, width = image.shape[:2]
    top, left, rows, columns = erased_box(jax.random.uniform(box_key, (_TRIES, 4)), height, width)
    y, x = jnp.arange(height)[:, None], jnp.arange(width)[None]
    inside = (y >= top) & (y < top + rows) & (x >= left) & (x < left + columns)
    inside &= jax.random.bernoulli(use_key, probability)
    return jnp.where(inside[..., None], jax.random.normal(noise_key, image.shape), image)


def erased_box(draws: jax.Array, height: int, width: int) -> tuple[jax.Array, ...]:
    """The box of the first draw that fits into the image.

    Args:
      draws: uniform in [0, 1), [tries, 4]: for area, aspect ratio, top and left.
      height: of the image, in pixels.
      width: of the image, in pixels.

    Returns:
      int32 (top, left, rows, columns); no rows and columns when no draw fits.
    """
    area = height * width * (_AREA[0] + (_AREA[1] - _AREA[0]) * draws[:, 0])
    aspect = jnp.exp(_LOG_ASPECT[0] + (_LOG_ASPECT[1] - _LOG_ASPECT[0]) * draws[:, 1])
    rows = jnp.round(jnp.sqrt(area * aspect)).astype(jnp.int32)
    columns = jnp.round(jnp.sqrt(area / aspect)).astype(jnp.int32)
    fits = (rows < height) & (columns < width)
    first = jnp.argmax(fits)
    rows, columns = (jnp.where(fits[first], side[first], 0) for side in (rows, columns))
    top = jnp.floor(draws[first, 2] * (height - rows + 1)).astype(jnp.int32)
    left = jnp.floor(draws[first, 3] * (width - columns + 1)).astype(jnp.int32)
    return top, left, rows, columns
