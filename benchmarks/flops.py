"""Floating-point operations of one train step, by formula.

Counted: every matrix product and convolution of the encoders (attention's two products included),
the heads and the decoder; a multiply-add is two operations. A backward pass costs twice its
forward pass, one product for the gradient of the input and one for that of the weight, except that
images need no gradient and a patch embedding that is frozen for good needs none either. Products
with the zeros around a map (the border of a 3x3 convolution) are left out, as XLA leaves them out;
published counts include them, which makes a decoder on a 14 x 14 grid 10 % dearer.

Not counted: normalisation, softmax, GELU, augmentation, the loss, optimizer and moving average,
whose operations are few and bound by memory.
"""

from collections.abc import Sequence
from typing import Any

import jax

from repre_jax.models.relative_positions import BUCKETS, SIDE
from repre_jax.models.repre_decoder import RePreDecoder
from repre_jax.models.swin import Swin
from repre_jax.models.vit import ViT
from repre_jax.training.learner import Learner

_BACKWARD = 2  # forward passes that a backward pass costs


def step_flops(learner: Learner, batch_size: int) -> dict[str, int]:
    """Operations of one train step on a batch, over all devices.

    Args:
      learner: what is trained.
      batch_size: B, images a step.

    Returns:
      {"online_encoder", "target_encoder", "online_heads", "target_heads", "decoder", "total"}.
    """
    method, views = learner.method, learner.method.views
    sides = [learner.image_size] * len(method.online_views)
    sides += [views.local_size] * views.local_crops
    targets = 0 if method.target_heads is None else len(method.target_views)
    heads = jax.eval_shape(learner.init).params["heads"]
    target_heads = {name: heads[name] for name in method.target_heads or ()}
    per_image = {
        "online_encoder": sum(_trained_encoder(learner, side) for side in sides),
        "target_encoder": targets * encoder_multiply_adds(learner.encoder, sides[0]),
        "online_heads": len(sides) * (1 + _BACKWARD) * head_multiply_adds(heads),
        "target_heads": targets * head_multiply_adds(target_heads),
        "decoder": _trained_decoder(learner),
    }
    flops = {part: 2 * batch_size * count for part, count in per_image.items()}
    return flops | {"total": sum(flops.values())}


def encoder_multiply_adds(encoder: ViT | Swin, side: int) -> int:
    """Multiply-adds of the forward pass on one square image of ``side`` pixels."""
    return _patch_embedding(encoder, side) + _blocks(encoder, side)


def head_multiply_adds(params: Any) -> int:
    """Multiply-adds of heads on one feature: each entry of each matrix is used once.

    Args:
      params: of the heads, arrays or shapes; matrices are called "kernel", or "direction" in
        DINO's weight-normalised prototypes.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return sum(leaf.size for path, leaf in leaves if path[-1].key in ("kernel", "direction"))


def decoder_multiply_adds(decoder: RePreDecoder, maps: Sequence[tuple[int, int]]) -> int:
    """Multiply-adds of RePre's decoder on the maps of one image.

    Args:
      decoder: its shape.
      maps: (side in vectors, channels) of the tapped maps, shallow to deep.
    """
    *shallower, (grid, channels) = maps
    total = 0
    if decoder.width is not None:
        total, channels = grid**2 * channels * decoder.width, decoder.width
    for block in range(decoder.blocks):
        if shallower:
            grid, merged = shallower.pop()
            inner, channels = decoder.width or merged, channels + merged
        else:
            doubled = block < decoder.upsamplings
            grid = 2 * grid if doubled else grid
            inner = decoder.width or (channels // 2 if doubled else channels)
        total += _fusion_block(decoder, grid, channels, inner)
        channels = inner
    return total + grid**2 * channels * 3 * decoder.patch_size**2


def _fusion_block(decoder: RePreDecoder, grid: int, channels: int, inner: int) -> int:
    if decoder.operator == "conv":
        # A tap of a 3x3 kernel misses the map at one row or column in `grid`, or at none.
        return (3 * grid - 2) ** 2 * inner * (channels + (decoder.layers - 1) * inner)
    if decoder.form.window is None:
        block = _transformer_block(grid**2, inner, mlp_ratio=4)
    else:
        block = _windowed_block(grid, inner, min(decoder.form.window, grid), mlp_ratio=4)
    return grid**2 * channels * inner + decoder.layers * block


def _trained_encoder(learner: Learner, side: int) -> int:
    encoder = learner.encoder
    blocks = _blocks(encoder, side)
    frozen = any(
        freeze.until_step is None and freeze.covers("encoder/patch_embed/kernel")
        for freeze in learner.method.frozen
    )
    total = _patch_embedding(encoder, side) * (1 if frozen else 2) + blocks * (1 + _BACKWARD)
    if encoder.remat:
        total += blocks
    if learner.accumulate > 1:  # its features are computed once more, ahead of the gradient
        total += encoder_multiply_adds(encoder, side)
    return total


def _trained_decoder(learner: Learner) -> int:
    if learner.repre is None:
        return 0
    encoder, side = learner.encoder, learner.image_size
    maps = [
        (-(-side // encoder.block_strides[k]), _channels(encoder, k)) for k in learner.repre.taps
    ]
    return decoder_multiply_adds(learner.repre.decoder, maps) * (1 + _BACKWARD)


def _channels(encoder: ViT | Swin, block: int) -> int:
    """Width of a block's map; a Swin's grows with the stride."""
    if isinstance(encoder, ViT):
        return encoder.width
    return encoder.embed_width * encoder.block_strides[block] // encoder.patch_size


def _patch_embedding(encoder: ViT | Swin, side: int) -> int:
    if isinstance(encoder, ViT):
        return side**2 * 3 * encoder.width
    grid = -(-side // encoder.patch_size)
    return grid**2 * encoder.patch_size**2 * 3 * encoder.embed_width


def _blocks(encoder: ViT | Swin, side: int) -> int:
    """All blocks, and a Swin's merging of patches between its stages."""
    if isinstance(encoder, ViT):
        grid = side // encoder.patch_size
        block = _transformer_block(grid**2 + 1, encoder.width, encoder.mlp_ratio)  # the class token
        if encoder.position == "relative":
            block += _relative_positions(grid, encoder.width, encoder.heads)
        return encoder.depth * block
    total, grid = 0, -(-side // encoder.patch_size)
    for stage, depth in enumerate(encoder.depths):
        width = encoder.embed_width * 2**stage
        if stage:
            grid = -(-grid // 2)
            total += grid**2 * 2 * width * width  # 4 of the stage before, joined, to 2
        window = encoder.stage_window(stage)
        total += depth * _windowed_block(grid, width, window, encoder.mlp_ratio)
    return total


def _relative_positions(grid: int, width: int, heads: int) -> int:
    """Each query's product with every bucket's vector, and the choice by rows, then by columns."""
    products = (grid**2 + 1) * width * BUCKETS
    return products + grid**2 * heads * (grid * SIDE**2 + grid**2 * SIDE)


def _windowed_block(grid: int, width: int, window: int, mlp_ratio: float) -> int:
    """As ``_transformer_block``, in windows over a map that is padded for its attention only."""
    windows = (-(-grid // window)) ** 2
    maps = windows * window**2 * 4 * width**2 + grid**2 * 2 * width * int(width * mlp_ratio)
    return maps + 2 * windows * window**4 * width


def _transformer_block(tokens: int, width: int, mlp_ratio: float) -> int:
    """Query, key, value and output maps, the MLP's two, and the two products of attention."""
    maps = tokens * width * (4 * width + 2 * int(width * mlp_ratio))
    return maps + 2 * tokens**2 * width
