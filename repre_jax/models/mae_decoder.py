"""MAE's decoder (arXiv 2111.06377): a narrow transformer over kept tokens and mask tokens."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from repre_jax.models.attention import padded
from repre_jax.models.dense import Dense
from repre_jax.models.layers import (
    Attention,
    layer_norm,
    linear_initialisers,
    normal_002,
    rematerialised,
)
from repre_jax.models.masking import Shuffle, unshuffle
from repre_jax.models.positions import sincos_2d
from repre_jax.rematerialisation import NONE


class MAEDecoder(nn.Module):
    """From the tokens of the kept patches to the pixels of all.

    Source: facebookresearch/mae, models_mae.py, forward_decoder.

    Attributes:
      grid: (gh, gw) of the patches.
      values: of the pixels of a patch, P * P * C.
      width, depth, heads: of its blocks.
      remat: of ``rematerialisation.LEVELS``.
      residual_dtype: of the sums that pass through all blocks; None for ``dtype``.
    """

    grid: tuple[int, int]
    values: int
    width: int = 512
    depth: int = 8
    heads: int = 16
    remat: str = NONE
    dtype: jnp.dtype = jnp.float32
    residual_dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, tokens: jax.Array, shuffled: Shuffle, train: bool) -> jax.Array:
        """Tokens [B, 1 + K, D], class token first, of the first K of N -> [B, N, P * P * C]."""
        kernel_init, qkv_init = linear_initialisers("mae")
        options = {"kernel_init": kernel_init, "dtype": self.dtype}
        batch, patches = shuffled.restore.shape
        x = Dense(self.width, name="embed", **options)(tokens)
        x = x.astype(self.residual_dtype or self.dtype)
        class_token, kept = x[:, :1], x[:, 1:]
        mask_token = self.param("mask_token", normal_002, (1, 1, self.width)).astype(x.dtype)
        hidden = jnp.broadcast_to(mask_token, (batch, patches - kept.shape[1], self.width))
        x = unshuffle(jnp.concatenate([kept, hidden], axis=1), shuffled)
        x = jnp.concatenate([class_token, x], axis=1)
        x = x + jnp.asarray(sincos_2d(self.grid, self.width, columns_first=True), x.dtype)
        seen = 1 + patches
        x = padded(x, self.heads, self.dtype)
        attention = functools.partial(Attention, seen=seen)
        of_block = options | {"qkv_init": qkv_init, "attention": attention}
        block_class = rematerialised(self.remat)
        for k in range(self.depth):
            x = block_class(self.heads, name=f"block_{k}", **of_block)(x, train)
        x = layer_norm(1e-6, self.dtype, "norm")(x[:, 1:seen])
        return Dense(self.values, name="pixels", **options)(x)
