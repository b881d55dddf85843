"""What encoders give away, and the one reader of sown activations: maps [B, gh, gw, D] of blocks.

Encoders return ``EncoderOutput``. They ``sow`` under ``tap_name(k)``, for every block k from 0, a
``BlockOutput`` of the residual stream after that block, before the final norm. RePre, evaluation
and dense tasks read them here. Their property ``taps`` names the blocks that RePre taps, and
``block_strides`` the pixels per side that a vector of each block's map stands for.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from repre_jax.errors import UserError

# Collection in which a ViT sows the attention of its class token, for those who make it mutable.
ATTENTION = "attention"


class EncoderOutput(NamedTuple):
    """What every encoder returns: pooled [B, D] and tokens [B, N, D], without the class token."""

    pooled: jax.Array
    tokens: jax.Array


class BlockOutput(NamedTuple):
    """What an encoder sows for a block.

    Attributes:
      feature_map: [B, gh, gw, D].
      class_token: [B, D], or None for encoders without one.
    """

    feature_map: jax.Array
    class_token: jax.Array | None


def tap_name(block: int) -> str:
    """Name under which an encoder sows the output of ``block``."""
    return f"tap_{block}"


def even_taps(depth: int, count: int = 4) -> tuple[int, ...]:
    """Blocks to tap, at even intervals, the last one always among them.

    RePre section 3.2: floor(L/K)-1, 2 floor(L/K)-1, ..., L-1, counted from 0; {2, 5, 8, 11} for
    12 blocks and 4 taps.
    """
    if not 0 < count <= depth:
        raise ValueError(f"cannot tap {count} of {depth} blocks")
    interval = depth // count
    return (*((k + 1) * interval - 1 for k in range(count - 1)), depth - 1)


def block_numbers(encoder: nn.Module, blocks: Sequence[int], key: str) -> tuple[int, ...]:
    """Blocks as numbers from 0, where negative ones count from the last, -1.

    Args:
      encoder: an encoder.
      blocks: as a user gave them.
      key: under which, for the error.

    Raises:
      UserError: the encoder has no such block.
    """
    depth = len(encoder.block_strides)
    for block in blocks:
        if block not in range(-depth, depth):
            raise UserError(f"{key} has block {block}: there are blocks 0 to {depth - 1}.")
    return tuple(dict.fromkeys(int(block) % depth for block in blocks))


def apply_with_taps(
    encoder: nn.Module, variables: Any, images: jax.Array, blocks: Sequence[int], **kwargs: Any
) -> tuple[Any, list[jax.Array]]:
    """Applies an encoder once and returns its output and the maps of the blocks asked for.

    Args:
      encoder: a module that sows ``BlockOutput`` as described above.
      variables: its variables.
      images: [B, H, W, C].
      blocks: block numbers from 0; the maps come back in this order.
      **kwargs: passed on to ``encoder.apply``.

    Raises:
      KeyError: a block was not sown, or sown more than once.
    """
    if not blocks:
        return encoder.apply(variables, images, **kwargs), []
    output, sown = encoder.apply(variables, images, mutable=["intermediates"], **kwargs)
    return output, [read_block(sown["intermediates"], block).feature_map for block in blocks]


def apply_with_attention(
    encoder: nn.Module, variables: Any, images: jax.Array, block: int
) -> jax.Array:
    """How much the class token attends to every patch in a block: float32 [B, H, gh, gw].

    The weights that the block mixes values with, whose sum with that of the class token itself is 1
    (facebookresearch/dino, visualize_attention.py).

    Args:
      encoder: a ViT.
      variables: its variables.
      images: [B, H, W, C] as it takes them.
      block: number from 0.

    Raises:
      KeyError: the encoder has no class token, or no such block.
    """
    _, sown = encoder.apply(variables, images, mutable=[ATTENTION])
    (weights,) = sown[ATTENTION][f"block_{block}"]["attention"]["first_token"]
    grid = (side // encoder.patch_size for side in images.shape[1:3])
    return weights[:, :, 1:].reshape(*weights.shape[:2], *grid)


def read_block(intermediates: Any, block: int) -> BlockOutput:
    """The ``BlockOutput`` that one ``apply`` sowed for ``block``; KeyError unless exactly one."""
    sown = intermediates.get(tap_name(block), ())
    if len(sown) != 1:
        names = ", ".join(sorted(intermediates)) or "nothing"
        raise KeyError(f"{tap_name(block)} was sown {len(sown)} times, not once; sown: {names}")
    return sown[0]
