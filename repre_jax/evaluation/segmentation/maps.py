"""Maps of features after chosen blocks, as dense evaluations take them."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from repre_jax.evaluation.frozen import from_levels
from repre_jax.models.layers import layer_norm
from repre_jax.models.taps import apply_with_taps, block_numbers

FUSED = "fused"


def chosen_blocks(encoder: nn.Module, blocks: Sequence[int]) -> tuple[int, ...]:
    """Numbers of the blocks that ``config.blocks`` names; () is all of them.

    Raises:
      UserError: a block that there is not.
    """
    return block_numbers(encoder, blocks or range(len(encoder.block_strides)), "blocks")


def block_maps(
    encoder: nn.Module, params: Any, images: jax.Array, blocks: Sequence[int]
) -> list[jax.Array]:
    """Maps float32 [B, gh, gw, D] after blocks and the encoder's final norm, no class token.

    The final norm stands behind every block, not the last alone, as in get_intermediate_layers of
    facebookresearch/dino, vision_transformer.py. Of Swin only the last stage has its width.

    Args:
      encoder: frozen.
      params: of it.
      images: [B, H, W, C] of levels.
      blocks: their numbers.
    """
    inputs = from_levels(encoder, images)
    _, maps = apply_with_taps(encoder, {"params": params}, inputs, tuple(blocks))
    norm = layer_norm(encoder.norm_epsilon, encoder.dtype, "norm")
    return [
        (norm.apply({"params": params["norm"]}, x) if x.shape[-1] == encoder.width else x).astype(
            jnp.float32
        )
        for x in maps
    ]


def unit(maps: jax.Array) -> jax.Array:
    """Vectors [..., D] over their lengths; zeros stay so (torch's normalize, eps 1e-12)."""
    lengths = jnp.sqrt(jnp.sum(jnp.square(maps), axis=-1, keepdims=True))
    return maps / jnp.maximum(lengths, 1e-12)


def fuse(maps: Sequence[jax.Array]) -> jax.Array:
    """Unit vectors of several blocks side by side, of length 1 again: [B, gh, gw, sum of D].

    The cosine of two fused vectors is the mean of the blocks' own cosines: every block has the same
    say, whatever the size of its numbers. Coarser maps are resized bilinearly to the finest grid.
    """
    grid = max(x.shape[1:3] for x in maps)
    same = [
        x if x.shape[1:3] == grid else jax.image.resize(x, (len(x), *grid, x.shape[3]), "linear")
        for x in map(unit, maps)
    ]
    return jnp.concatenate([unit(x) for x in same], axis=-1) / len(maps) ** 0.5


def with_fused(maps: Sequence[jax.Array], wanted: bool) -> list[jax.Array]:
    """The maps' unit vectors, and where wanted those of all blocks fused."""
    return [*map(unit, maps), *([fuse(maps)] if wanted else [])]


def names_of(blocks: Sequence[int], fused: bool) -> tuple[str, ...]:
    """What the maps of ``with_fused`` are called: ("0", "3", "fused")."""
    return (*map(str, blocks), *([FUSED] if fused else []))


def reported_of(names: Sequence[str]) -> str:
    """The block that an evaluation's one value is of: the last, as the papers have it."""
    return [name for name in names if name != FUSED][-1]
