"""Linear maps whose parameters have float32 gradients, whatever dtype they compute in."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp


class Linear(NamedTuple):
    """Parameters of a linear map: kernel float32 [D, K], bias float32 [K] or None."""

    kernel: jax.Array
    bias: jax.Array | None


class LinearParameters(nn.Dense):
    """The parameters of a ``Dense`` by themselves, for what does more than apply them."""

    @nn.compact
    def __call__(self, width: int) -> Linear:
        """Of a map from ``width`` channels."""
        return _parameters(self, width)


class Dense(nn.Dense):
    """flax's, but for the gradient of its parameters (``linear``).

    flax casts kernel and bias to the compute dtype first, so that their gradients are rounded to it
    on every device, and then summed over the devices in it.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., features] in ``dtype``."""
        return linear(x.astype(self.dtype), *_parameters(self, x.shape[-1]))


def _parameters(module: nn.Dense, width: int) -> Linear:
    shape = (width, module.features)
    kernel = module.param("kernel", module.kernel_init, shape, module.param_dtype)
    if not module.use_bias:
        return Linear(kernel, None)
    return Linear(kernel, module.param("bias", module.bias_init, shape[1:], module.param_dtype))


@jax.custom_vjp
def linear(x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    """x kernel + bias in the dtype of ``x``; gradients of kernel and bias are summed in float32.

    Args:
      x: [..., D].
      kernel: float32 [D, K].
      bias: float32 [K], or None.

    Returns:
      [..., K].
    """
    y = x @ kernel.astype(x.dtype)
    return y if bias is None else y + bias.astype(x.dtype)


def _linear_backward(kept, gradient):
    x, kernel, bias = kept
    # Or XLA, to which more digits are as good, writes another gradient in float32 for the bias.
    gradient = jax.lax.optimization_barrier(gradient)
    of_x = gradient @ kernel.T.astype(gradient.dtype)
    # Rows: contracting one axis and not two, XLA for CPU is 1.7 times as fast.
    rows, gradient = (a.reshape(-1, a.shape[-1]) for a in (x, gradient))
    of_kernel = jnp.matmul(rows.T, gradient, preferred_element_type=kernel.dtype)
    of_bias = None if bias is None else jnp.sum(gradient, axis=0, dtype=bias.dtype)
    return of_x, of_kernel, of_bias


linear.defvjp(lambda *inputs: (linear(*inputs), inputs), _linear_backward)
