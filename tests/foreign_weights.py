"""Tiny encoders of this library with random numbers, to be written down as others would."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from repre_jax.image_size import height_and_width
from repre_jax.models.swin import Swin
from repre_jax.models.vit import ViT


def vit(**options: Any) -> ViT:
    """Width 32, 3 blocks, 4 patches a side; heads of 16 or as ``options`` say."""
    usual = {"patch_size": 8, "width": 32, "depth": 3, "heads": 2, "image_size": 32}
    return ViT(**usual | options)


def swin(**options: Any) -> Swin:
    """Four stages on images of 64: windows of 2 on maps of 16, 8, 4 and 2."""
    usual = {"embed_width": 8, "depths": (2, 1, 3, 1), "heads": (1, 2, 2, 4)}
    return Swin(**usual | {"window": 2, "image_size": 64} | options)


def random_params(encoder: nn.Module, seed: int = 0, deviation: float = 0.2) -> Any:
    """Normal numbers, 1 more where a norm scales."""
    shapes = _shapes(encoder)
    rng = np.random.default_rng(seed)

    def number(path, x):
        scale = path[-1].key == "scale"
        return (rng.normal(size=x.shape, scale=deviation) + scale).astype(np.float32)

    return jax.tree_util.tree_map_with_path(number, shapes)


@functools.cache
def _shapes(encoder: nn.Module) -> Any:
    image = jnp.zeros((1, *height_and_width(encoder.image_size), encoder.channels))
    return jax.eval_shape(lambda: encoder.init(jax.random.key(0), image))["params"]


def depths(encoder: nn.Module) -> tuple[int, ...]:
    """Blocks of each stage."""
    return getattr(encoder, "depths", (encoder.depth,))
