"""Projection onto the unit sphere, shared by heads, losses and evaluation."""

import jax
import jax.numpy as jnp


def l2_normalise(x: jax.Array, epsilon: float = 1e-12) -> jax.Array:
    """x / max(|x|, epsilon) over the last axis in float32, with a finite gradient at zero.

    The same as ``torch.nn.functional.normalize``.
    """
    x = x.astype(jnp.float32)
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, epsilon**2))
