"""RePre's light reconstruction decoder (arXiv 2201.06857, section 3.4 and figure 2)."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from repre_jax.models.layers import (
    Block,
    torch_default_bias,
    torch_default_kernel,
)


class FusionBlock(nn.Module):
    """Merges a shallower map into the deeper one: concatenation, then ``layers`` fusion layers.

    "conv" layers are 3x3 convolution + ReLU; "transformer" layers, the ablation of table 5, are a
    linear map to the width followed by ordinary pre-norm blocks over the tokens.
    """

    operator: str
    layers: int
    width: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, gh, gw, C] (already concatenated) -> [B, gh, gw, width]."""
        if self.operator == "conv":
            for k in range(self.layers):
                x = nn.relu(_convolution(self.width, 3, x.shape[-1], self.dtype, f"fusion_{k}")(x))
            return x
        batch, rows, columns, _ = x.shape
        heads = self.width // 64 if self.width % 64 == 0 else 1
        x = _convolution(self.width, 1, x.shape[-1], self.dtype, "reduce")(x)
        x = x.reshape(batch, rows * columns, self.width)
        for k in range(self.layers):
            x = Block(heads=heads, dtype=self.dtype, name=f"fusion_{k}")(x, False)
        return x.reshape(batch, rows, columns, self.width)


class RePreDecoder(nn.Module):
    """U-shaped fusion from the deepest tapped map to the shallowest, then pixels.

    With taps y_1 (shallow) ... y_K (deep): x = y_K; for y in y_{K-1}, ..., y_1: x = fuse([x, y]);
    a 1x1 convolution maps every vector of the result to the P*P*3 pixels of its patch. A single
    tap (the ablation of table 4) passes through the same number of blocks without concatenation.
    The taps are used as they are, without norm, and the output is linear.

    Attributes:
      operator: "conv" or "transformer" fusion layers.
      layers: fusion layers in each block.
      width: channels of the fused maps; None is the paper's literal reading (that of the encoder).
        The paper's "4 % workload" fits a width of about 128, which projects the deepest map first.
      patch_size: P, pixels per side that a vector of the shallowest map stands for.
      blocks: number of fusion blocks, K - 1.
    """

    operator: str
    layers: int
    width: int | None
    patch_size: int
    blocks: int = 3
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, taps: Sequence[jax.Array]) -> jax.Array:
        """Maps [B, gh, gw, D], shallow to deep -> float32 pixels [B, gh*P, gw*P, 3]."""
        *shallower, x = taps
        width = self.width or x.shape[-1]
        if self.width is not None:
            x = _convolution(width, 1, x.shape[-1], self.dtype, "project")(x)
        for k in range(self.blocks):
            if shallower:
                x = jnp.concatenate([x, shallower.pop().astype(x.dtype)], axis=-1)
            x = FusionBlock(self.operator, self.layers, width, self.dtype, name=f"block_{k}")(x)
        values = 3 * self.patch_size**2
        x = _convolution(values, 1, x.shape[-1], self.dtype, "to_pixels")(x)
        return depth_to_space(x.astype(jnp.float32), self.patch_size)


def depth_to_space(x: jax.Array, patch_size: int) -> jax.Array:
    """[B, gh, gw, P*P*3] -> [B, gh*P, gw*P, 3], each vector becoming its patch row by row."""
    batch, rows, columns, _ = x.shape
    x = x.reshape(batch, rows, columns, patch_size, patch_size, 3)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, rows * patch_size, columns * patch_size, 3)


def _convolution(width: int, size: int, channels: int, dtype: jnp.dtype, name: str) -> nn.Conv:
    return nn.Conv(
        width,
        (size, size),
        kernel_init=torch_default_kernel,
        bias_init=torch_default_bias(size * size * channels),
        dtype=dtype,
        name=name,
    )
