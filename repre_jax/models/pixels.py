"""Pixels as encoders take them, and patches of pixels as rows."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from repre_jax.errors import UserError


class Normalisation(NamedTuple):
    """What is subtracted from pixels in [0, 1], and what divides them: a number a channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Of one channel: the means of ImageNet's, as timm has it (timm/data/config.py).
GREY = Normalisation((0.449,), (0.226,))
_USUAL = {1: GREY, 3: IMAGENET}


def normalisation_of(data: ConfigDict, *, channels: int, wanted: bool) -> Normalisation | None:
    """What a config says of it; None where pixels stay as they are.

    Args:
      data: ``config.data``, with ``mean`` and ``std``, each None for the usual ones.
      channels: C of the images.
      wanted: ``model.normalise``.

    Raises:
      UserError: as many numbers as channels are not given, nor usual.
    """
    given = (data.mean, data.std)
    if not wanted:
        if given != (None, None):
            raise UserError(
                "data.mean and data.std are given, and model.normalise=False reads neither: leave "
                "them out, or normalise."
            )
        return None
    if given == (None, None):
        if channels in _USUAL:
            return _USUAL[channels]
        raise UserError(
            f"Images of {channels} channels have no usual mean and deviation: set data.mean and "
            f"data.std, {channels} numbers each of pixels in [0, 1], or model.normalise=False."
        )
    if any(x is None or len(x) != channels for x in given):
        raise UserError(
            f"data.mean={given[0]} and data.std={given[1]} must both have {channels} number(s), "
            "one for each of model.channels."
        )
    return Normalisation(*(tuple(map(float, x)) for x in given))


def normalise(pixels: Any, by: Normalisation) -> Any:
    """[..., C] in [0, 1] -> about zero mean and unit variance in every channel."""
    return (pixels - jnp.asarray(by.mean)) / jnp.asarray(by.std)


def denormalise(pixels: Any, by: Normalisation) -> Any:
    """Undoes ``normalise``."""
    return pixels * jnp.asarray(by.std) + jnp.asarray(by.mean)


def encoder_input(encoder: nn.Module, pixels: jax.Array) -> jax.Array:
    """Pixels float32 [..., C] in [0, 1] as ``encoder`` takes them."""
    return normalise(pixels, encoder.normalisation) if encoder.normalisation else pixels


def patchify(images: jax.Array, patch_size: int) -> jax.Array:
    """[B, H, W, C] -> [B, N, P * P * C]: patches and the pixels of each row by row, colours last.

    Source: facebookresearch/mae, models_mae.py, patchify.
    """
    batch, height, width, colours = images.shape
    rows, columns = height // patch_size, width // patch_size
    x = images.reshape(batch, rows, patch_size, columns, patch_size, colours)
    return x.swapaxes(2, 3).reshape(batch, rows * columns, patch_size**2 * colours)


def unpatchify(patches: jax.Array, grid: tuple[int, int], patch_size: int) -> jax.Array:
    """Undoes ``patchify``: [B, gh * gw, P * P * C] -> [B, H, W, C].

    Args:
      patches: of images.
      grid: (gh, gw).
      patch_size: P, in pixels.
    """
    rows, columns = grid
    x = patches.reshape(len(patches), rows, columns, patch_size, patch_size, -1)
    return x.swapaxes(2, 3).reshape(len(patches), rows * patch_size, columns * patch_size, -1)
