"""Features of a frozen encoder: which blocks, which norm, which tokens.

pooled          what the encoder returns: class token after the final norm, or Swin's mean.
mean            mean of the patch tokens after the final norm: where no loss has formed a class
                token.
last_4          DINO's linear probe of small ViTs: class tokens of the last four blocks, each after
                the final norm. Of Swin (EsViT): means of the last four blocks' tokens, the final
                norm on those of the last stage only.
class_and_mean  DINO's linear probe of ViT-B: class token and mean of the patch tokens, after the
                final norm, interleaved number by number as in the official weights.

Sources: facebookresearch/dino, eval_linear.py and get_intermediate_layers of
vision_transformer.py; microsoft/esvit, forward_return_n_last_blocks of models/swin_transformer.py.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from repre_jax.data.pixel_format import as_shares
from repre_jax.models.layers import layer_norm
from repre_jax.models.pixels import encoder_input
from repre_jax.models.taps import read_block
from repre_jax.sharding import jitted

FEATURES = ("pooled", "mean", "last_4", "class_and_mean")
_LAST_BLOCKS = 4


def frozen_features(
    encoder: nn.Module, params: Any, images: jax.Array, feature: str, **apply_options: Any
) -> jax.Array:
    """Features float32 [B, F] of normalised images [B, H, W, C].

    Args:
      encoder: a module of ``models``.
      params: its parameters.
      images: as the encoder takes them.
      feature: of ``FEATURES``.
      **apply_options: passed on to ``encoder.apply``.
    """
    if feature == "pooled":
        features = encoder.apply({"params": params}, images, **apply_options).pooled
    elif feature == "mean":
        tokens = encoder.apply({"params": params}, images, **apply_options).tokens
        features = tokens.mean(axis=1, dtype=jnp.float32)
    elif feature == "class_and_mean":
        encoded = encoder.apply({"params": params}, images, **apply_options)
        pair = jnp.stack([encoded.pooled, encoded.tokens.mean(axis=1)], axis=-1)
        features = pair.reshape(len(images), -1)
    elif feature == "last_4":
        _, sown = encoder.apply(
            {"params": params}, images, mutable=["intermediates"], **apply_options
        )
        depth = len(encoder.block_strides)
        blocks = range(max(depth - _LAST_BLOCKS, 0), depth)
        last = [read_block(sown["intermediates"], block) for block in blocks]
        features = jnp.concatenate([_block_feature(encoder, params, b) for b in last], axis=-1)
    else:
        raise ValueError(f"feature={feature!r} must be one of {FEATURES}")
    return features.astype(jnp.float32)


def block_features(
    encoder: nn.Module, params: Any, images: jax.Array, feature: str
) -> list[jax.Array]:
    """Class token or mean token after every block and before any norm: float32 [B, D] each.

    Args:
      encoder, params, images: as in ``frozen_features``.
      feature: of ``FEATURES``; "mean" for mean tokens where there are class tokens, too.
    """
    _, sown = encoder.apply({"params": params}, images, mutable=["intermediates"])

    def summary(block: int) -> jax.Array:
        output = read_block(sown["intermediates"], block)
        if feature == "mean" or output.class_token is None:
            return output.feature_map.mean(axis=(1, 2))
        return output.class_token

    return [summary(block).astype(jnp.float32) for block in range(len(encoder.block_strides))]


def from_levels(encoder: nn.Module, images: jax.Array) -> jax.Array:
    """uint8 or uint16 [B, H, W, C] as ``encoder`` takes them, float32."""
    return encoder_input(encoder, as_shares(images))


@functools.lru_cache(maxsize=8)
def encode_pixels(encoder: nn.Module, feature: str, mesh: Mesh) -> jax.stages.Wrapped:
    """Jitted (params, images [B, H, W, C] of levels) -> features float32 [B, F].

    The same one for the same arguments, so that it is compiled once for the training and the
    validation images, and for all runs of a table that have one architecture.

    Args:
      encoder: a module of ``models``.
      feature: of ``FEATURES``.
      mesh: the devices that share the images.
    """

    def encode(params, images):
        return frozen_features(encoder, params, from_levels(encoder, images), feature)

    return jitted(encode, mesh)


def _block_feature(encoder: nn.Module, params: Any, block: Any) -> jax.Array:
    """Class token after the final norm, or the mean over the map. [B, D]"""
    norm = layer_norm(encoder.norm_epsilon, encoder.dtype, "norm")
    if block.class_token is not None:
        return norm.apply({"params": params["norm"]}, block.class_token)
    tokens = block.feature_map
    if tokens.shape[-1] == encoder.width:  # of the last stage
        tokens = norm.apply({"params": params["norm"]}, tokens)
    return tokens.mean(axis=(1, 2))
