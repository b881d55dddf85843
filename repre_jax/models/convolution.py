"""Convolutions whose parameters have float32 gradients where that costs nothing."""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

Pads = Sequence[tuple[int, int]]


class Conv(nn.Module):
    """flax's of two dimensions, but for the gradient of its parameters (``convolved``).

    Attributes:
      features: channels of the output.
      kernel_size: rows and columns.
      strides: of rows and columns.
      padding: "SAME", "VALID", or (before, after) of rows and columns.
    """

    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: str | Pads = "SAME"
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, h, w, features] in ``dtype``."""
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", self.bias_init, shape[-1:]) if self.use_bias else None
        pads = self.padding
        if isinstance(pads, str):
            pads = jax.lax.padtype_to_pads(x.shape[1:3], self.kernel_size, self.strides, pads)
        return convolved(x.astype(self.dtype), kernel, bias, self.strides, tuple(pads))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def convolved(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    strides: tuple[int, int],
    pads: tuple[tuple[int, int], ...],
) -> jax.Array:
    """x * kernel + bias in the dtype of ``x``; gradients of the parameters are float32.

    flax casts the parameters to the compute dtype first, so that their gradients are rounded to it
    on every device and then summed over the devices in it. The kernel's still is on GPUs: cuDNN
    has no such gradient of bfloat16 maps, and XLA would write them in float32 for one.

    Args:
      x: [B, H, W, C].
      kernel: float32 [y, x, C, K].
      bias: float32 [K], or None.
      strides: of rows and columns.
      pads: (before, after) of rows and columns.

    Returns:
      [B, h, w, K].
    """
    y = _convolve(x, kernel.astype(x.dtype), strides, pads)
    return y if bias is None else y + bias.astype(x.dtype)


def _forward(x, kernel, bias, strides, pads):
    return convolved(x, kernel, bias, strides, pads), (x, kernel, bias)


def _backward(strides, pads, kept, gradient):
    x, kernel, bias = kept
    narrow = kernel.astype(x.dtype)
    of_map = jax.linear_transpose(lambda x: _convolve(x, narrow, strides, pads), x)
    of_parameters = jax.linear_transpose(lambda w: _convolve(x, w, strides, pads), narrow)
    of_kernel = jax.lax.platform_dependent(
        x,
        gradient,
        tpu=lambda x, gradient: kernel_gradient(x, gradient, kernel.shape[:2], strides, pads),
        default=lambda x, gradient: of_parameters(gradient)[0].astype(kernel.dtype),
    )
    of_bias = None if bias is None else jnp.sum(gradient, axis=(0, 1, 2), dtype=bias.dtype)
    return *of_map(gradient), of_kernel, of_bias


convolved.defvjp(_forward, _backward)


def kernel_gradient(
    x: jax.Array, gradient: jax.Array, size: Sequence[int], strides: Sequence[int], pads: Pads
) -> jax.Array:
    """Gradient of a kernel of ``size``, summed in float32: a convolution over the examples.

    Args:
      x: [B, H, W, C].
      gradient: of the output [B, h, w, K].
      size: rows and columns of the kernel.
      strides: of the forward convolution.
      pads: of the forward convolution.

    Returns:
      float32 [*size, C, K].
    """
    sides = zip(x.shape[1:3], gradient.shape[1:3], size, strides, pads, strict=True)
    # As much after the last row as lets the kernel's last row see what it saw.
    around = [
        (before, kernel + (outputs - 1) * stride - inputs - before)
        for inputs, outputs, kernel, stride, (before, _) in sides
    ]
    return jax.lax.conv_general_dilated(
        x,
        gradient,
        (1, 1),
        around,
        rhs_dilation=strides,
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
        preferred_element_type=jnp.float32,
    )


def _convolve(x, kernel, strides, pads):
    return jax.lax.conv_general_dilated(
        x, kernel, strides, pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
