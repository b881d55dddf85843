"""LayerNorm that keeps its statistics for the gradient."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp


class LayerNorm(nn.LayerNorm):
    """flax's over the last axis, with scale and bias, its variance in two passes.

    The one-pass variance loses digits that parity needs.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., D] in ``dtype``."""
        scale = self.param("scale", self.scale_init, x.shape[-1:], self.param_dtype)
        bias = self.param("bias", self.bias_init, x.shape[-1:], self.param_dtype)
        return _norm(x, scale, bias, self.epsilon, self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _norm(x, scale, bias, epsilon, dtype):
    return _normed_and_kept(x, scale, bias, epsilon, dtype)[0]


def _normed_and_kept(x, scale, bias, epsilon, dtype):
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(wide - mean), axis=-1, keepdims=True)
    per_deviation = jax.lax.rsqrt(variance + epsilon)
    normed = (wide - mean) * per_deviation * scale + bias
    return normed.astype(dtype), (x, scale, mean, per_deviation)


def _norm_backward(epsilon, dtype, kept, gradient):
    del epsilon, dtype
    x, scale, mean, per_deviation = jax.lax.optimization_barrier(kept)
    normed = (x.astype(jnp.float32) - mean) * per_deviation
    gradient = gradient.astype(jnp.float32)
    rows = tuple(range(x.ndim - 1))
    of_scale, of_bias = jnp.sum(gradient * normed, axis=rows), jnp.sum(gradient, axis=rows)
    scaled = gradient * scale
    along = jnp.mean(scaled * normed, axis=-1, keepdims=True)
    of_x = per_deviation * (scaled - jnp.mean(scaled, axis=-1, keepdims=True) - normed * along)
    return of_x.astype(x.dtype), of_scale, of_bias


_norm.defvjp(_normed_and_kept, _norm_backward)
