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

from typing import Any

import jax

from repre_jax.learner import Learner
from repre_jax.models.repre_decoder import RePreDecoder
from repre_jax.models.vit import ViT

_BACKWARD = 2  # forward passes that a backward pass costs
_GLOBAL_VIEWS = 2


def step_flops(learner: Learner, batch_size: int) -> dict[str, int]:
    """Operations of one train step on a batch, over all devices.

    Args:
      learner: what is trained; its encoder must be a ``ViT``.
      batch_size: B, images a step.

    Returns:
      {"online_encoder", "target_encoder", "online_heads", "target_heads", "decoder", "total"}.
    """
    views = learner.method.views
    sides = [learner.image_size] * _GLOBAL_VIEWS + [views.local_size] * views.local_crops
    heads = jax.eval_shape(learner.init).params["heads"]
    target_heads = {name: heads[name] for name in learner.method.target_heads or ()}
    per_image = {
        "online_encoder": sum(_trained_encoder(learner, side) for side in sides),
        "target_encoder": _GLOBAL_VIEWS * encoder_multiply_adds(learner.encoder, sides[0]),
        "online_heads": len(sides) * (1 + _BACKWARD) * head_multiply_adds(heads),
        "target_heads": _GLOBAL_VIEWS * head_multiply_adds(target_heads),
        "decoder": _trained_decoder(learner),
    }
    flops = {part: 2 * batch_size * count for part, count in per_image.items()}
    return flops | {"total": sum(flops.values())}


def encoder_multiply_adds(encoder: ViT, side: int) -> int:
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


def decoder_multiply_adds(decoder: RePreDecoder, *, width: int, grid: int, taps: int) -> int:
    """Multiply-adds of RePre's decoder on the maps of one image.

    Args:
      decoder: its shape.
      width: D, channels of the tapped maps.
      grid: side of the maps in tokens.
      taps: number of tapped maps.
    """
    tokens = grid**2
    inner = decoder.width or width
    total = 0 if decoder.width is None else tokens * width * inner
    for block in range(decoder.blocks):
        channels = inner + (width if block < taps - 1 else 0)
        if decoder.operator == "conv":
            # A tap of a 3x3 kernel misses the map at one row or column in `grid`, or at none.
            products = (3 * grid - 2) ** 2
            total += products * inner * (channels + (decoder.layers - 1) * inner)
        else:
            total += tokens * channels * inner
            total += decoder.layers * _transformer_block(tokens, inner, mlp_ratio=4)
    return total + tokens * inner * 3 * decoder.patch_size**2


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
    grid = learner.image_size // learner.encoder.patch_size
    forward = decoder_multiply_adds(
        learner.repre.decoder,
        width=learner.encoder.width,
        grid=grid,
        taps=len(learner.repre.taps),
    )
    return forward * (1 + _BACKWARD)


def _patch_embedding(encoder: ViT, side: int) -> int:
    return side**2 * 3 * encoder.width


def _blocks(encoder: ViT, side: int) -> int:
    tokens = (side // encoder.patch_size) ** 2 + 1  # the class token
    return encoder.depth * _transformer_block(tokens, encoder.width, encoder.mlp_ratio)


def _transformer_block(tokens: int, width: int, mlp_ratio: float) -> int:
    """Query, key, value and output maps, the MLP's two, and the two products of attention."""
    maps = tokens * width * (4 * width + 2 * int(width * mlp_ratio))
    return maps + 2 * tokens**2 * width
