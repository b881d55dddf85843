"""RePre's light reconstruction decoder (arXiv 2201.06857, section 3.4 and figure 2)."""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from repre_jax.errors import UserError
from repre_jax.models.convolution import Conv
from repre_jax.models.layers import (
    Attention,
    Block,
    BlockForm,
    linear_initialisers,
    torch_default_bias,
    torch_default_kernel,
)
from repre_jax.models.swin import WindowAttention


class FusionBlock(nn.Module):
    """Merges a shallower map into the deeper one: concatenation, then ``layers`` fusion layers.

    "conv" layers are 3x3 convolution + ReLU; "transformer" layers, the ablation of table 5, are a
    linear map to the width followed by blocks of the encoder's kind.
    """

    operator: str
    layers: int
    width: int
    form: BlockForm = BlockForm()
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, gh, gw, C] (already concatenated) -> [B, gh, gw, width]."""
        if self.operator == "conv":
            for k in range(self.layers):
                x = nn.relu(_convolution(self.width, 3, x.shape[-1], self.dtype, f"fusion_{k}")(x))
            return x
        x = _convolution(self.width, 1, x.shape[-1], self.dtype, "reduce")(x)
        shape = x.shape
        if self.form.window is None:
            x = x.reshape(shape[0], -1, self.width)
        for k in range(self.layers):
            x = self._block(k, min(shape[1:3]))(x, False)
        return x.reshape(shape)

    def _block(self, k: int, side: int) -> Block:
        """The k-th block, for maps whose shorter side is this one, as in the encoder."""
        form, attention = self.form, Attention
        if form.window is not None:
            window = min(form.window, side)
            shift = window // 2 if k % 2 and window < side else 0
            attention = functools.partial(WindowAttention, window=window, shift=shift)
        kernel_init, qkv_init = linear_initialisers(form.initialisation)
        return Block(
            heads=1 if self.width % form.head_width else self.width // form.head_width,
            norm_epsilon=form.norm_epsilon,
            kernel_init=kernel_init,
            qkv_init=qkv_init,
            dtype=self.dtype,
            attention=attention,
            name=f"fusion_{k}",
        )


class RePreDecoder(nn.Module):
    """U-shaped fusion from the deepest tapped map to the shallowest, then pixels.

    With taps y_1 (shallow) ... y_K (deep): x = y_K; for y in y_{K-1}, ..., y_1: x = fuse([x, y]);
    a 1x1 convolution maps every vector of the result to the P*P*C pixels of its patch. A single
    tap (the ablation of table 4) passes through the same number of blocks without concatenation.
    The taps are used as they are, without norm, and the output is linear.

    Where y is exactly twice as large as x, as in encoders whose stages halve their map, x is first
    upsampled by two.

    Attributes:
      operator: "conv" or "transformer" fusion layers.
      layers: fusion layers in each block.
      width: channels of the fused maps; None is the paper's literal reading: those of the map that
        a block merges in, which is the encoder's width in a ViT. The paper's "4 % workload" fits a
        width of about 128, which projects the deepest map first.
      patch_size: P, pixels per side that a vector of the shallowest map stands for.
      blocks: number of fusion blocks, K - 1.
      upsamplings: for a single tap, which has no other maps to go by: how many blocks, from the
        deepest, upsample by two first. They then halve the channels, too, unless ``width`` fixes
        them, as the encoder's stages do.
      channels: C of the pixels.
      form: the encoder's kind of block, for "transformer".
    """

    operator: str
    layers: int
    width: int | None
    patch_size: int
    blocks: int = 3
    upsamplings: int = 0
    channels: int = 3
    form: BlockForm = BlockForm()
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, taps: Sequence[jax.Array]) -> jax.Array:
        """Maps [B, gh, gw, D], shallow to deep -> float32 pixels [B, gh*P, gw*P, C].

        gh and gw are those of the shallowest map, or of a single one after all upsampling. Raises
        UserError if a map is neither as large as the next deeper one nor twice as large.
        """
        *shallower, x = taps
        if self.width is not None:
            x = _convolution(self.width, 1, x.shape[-1], self.dtype, "project")(x)
        for k in range(self.blocks):
            if shallower:
                y = shallower.pop().astype(x.dtype)
                x = upsample_by_two(x) if is_doubled(x.shape[1:3], y.shape[1:3]) else x
                width, x = y.shape[-1], jnp.concatenate([x, y], axis=-1)
            elif k < self.upsamplings:
                width, x = x.shape[-1] // 2, upsample_by_two(x)
            else:
                width = x.shape[-1]
            block = FusionBlock(
                self.operator,
                self.layers,
                self.width or width,
                self.form,
                self.dtype,
                name=f"block_{k}",
            )
            x = block(x)
        values = self.channels * self.patch_size**2
        x = _convolution(values, 1, x.shape[-1], self.dtype, "to_pixels")(x)
        return depth_to_space(x.astype(jnp.float32), self.patch_size)


def is_doubled(deeper: tuple[int, int], shallower: tuple[int, int]) -> bool:
    """Whether the shallower of two tapped grids is twice as large as the deeper, not as large.

    Raises:
      UserError: it is neither.
    """
    if shallower == deeper:
        return False
    if shallower == (2 * deeper[0], 2 * deeper[1]):
        return True
    raise UserError(
        f"RePre cannot merge a tapped map of {deeper[0]}x{deeper[1]} into one of "
        f"{shallower[0]}x{shallower[1]}, which is neither as large nor exactly twice as large; "
        "choose a model.image_size that every stage can halve (a multiple of 32 for Swin), and "
        "repre.taps that leave no stage out."
    )


def upsample_by_two(x: jax.Array) -> jax.Array:
    """Bilinear with half-pixel centres, edges repeated: [B, gh, gw, C] -> [B, 2*gh, 2*gw, C].

    What torch's interpolate(scale_factor=2, mode="bilinear", align_corners=False) and
    ``jax.image.resize`` compute, as sums of shifted maps: at a factor of two all weights are 3/4
    and 1/4.
    """
    for axis in (1, 2):
        side = x.shape[axis]
        first, last = (jax.lax.slice_in_dim(x, i, i + 1, axis=axis) for i in (0, side - 1))
        before = jnp.concatenate([first, jax.lax.slice_in_dim(x, 0, side - 1, axis=axis)], axis)
        after = jnp.concatenate([jax.lax.slice_in_dim(x, 1, side, axis=axis), last], axis)
        x = jnp.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis=axis + 1)
        x = x.reshape(*x.shape[:axis], 2 * side, *x.shape[axis + 2 :])
    return x


def depth_to_space(x: jax.Array, patch_size: int) -> jax.Array:
    """[B, gh, gw, P*P*C] -> [B, gh*P, gw*P, C], each vector becoming its patch row by row."""
    batch, rows, columns, _ = x.shape
    x = x.reshape(batch, rows, columns, patch_size, patch_size, -1)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, rows * patch_size, columns * patch_size, -1)


def _convolution(width: int, size: int, channels: int, dtype: jnp.dtype, name: str) -> Conv:
    return Conv(
        width,
        (size, size),
        kernel_init=torch_default_kernel,
        bias_init=torch_default_bias(size * size * channels),
        dtype=dtype,
        name=name,
    )
