"""Pixels as encoders take them, and patches of pixels as rows."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(pixels: Any) -> Any:
    """[..., 3] in [0, 1] -> zero mean, unit variance per colour over ImageNet."""
    return (pixels - jnp.asarray(IMAGENET_MEAN)) / jnp.asarray(IMAGENET_STD)


def denormalise(pixels: Any) -> Any:
    """Undoes ``normalise``."""
    return pixels * jnp.asarray(IMAGENET_STD) + jnp.asarray(IMAGENET_MEAN)


def encoder_input(encoder: nn.Module, pixels: jax.Array) -> jax.Array:
    """Pixels float32 [..., 3] in [0, 1] as ``encoder`` takes them."""
    return normalise(pixels) if encoder.normalise else pixels


def patchify(images: jax.Array, patch_size: int) -> jax.Array:
    """[B, H, W, C] -> [B, N, P * P * C]: patches and the pixels of each row by row, colours last.

    Source: facebookresearch/mae, models_mae.py, patchify.
    """
    batch, height, width, colours = images.shape
    rows, columns = height // patch_size, width // patch_size
    x = images.reshape(batch, rows, patch_size, columns, patch_size, colours)
    return x.swapaxes(2, 3).reshape(batch, rows * columns, patch_size**2 * colours)


def unpatchify(patches: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Undoes ``patchify``: [B, gh * gw, P * P * 3] -> [B, H, W, 3].

    Args:
      patches: of images.
      grid: (gh, gw).
    """
    batch, _, values = patches.shape
    size = round((values // 3) ** 0.5)
    x = patches.reshape(batch, *grid, size, size, 3)
    return x.swapaxes(2, 3).reshape(batch, grid[0] * size, grid[1] * size, 3)
