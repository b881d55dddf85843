"""Which patches a masked method hides: random draws of exact size, one key an image."""

import functools
import math
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp


def share_of(count: int, ratio: float) -> int:
    """floor(count * ratio), of the decimal number as it is written: 0.1 is a tenth."""
    return math.floor(count * Fraction(str(ratio)))


def kept_of(count: int, ratio: float) -> int:
    """floor(count * (1 - ratio)) likewise: what MAE keeps when it hides that share."""
    return math.floor(count * (1 - Fraction(str(ratio))))


class Shuffle(NamedTuple):
    """A random order of the patches of each image.

    Attributes:
      order: int32 [B, N], the patch at each place.
      restore: int32 [B, N], the place of each patch: the inverse.
    """

    order: jax.Array
    restore: jax.Array


def draw_noise(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """float32 [B, *shape] in [0, 1), of which a row is a function of its key alone."""
    return jax.vmap(lambda key: jax.random.uniform(key, shape, jnp.float32))(keys)


def shuffle(noise: jax.Array) -> Shuffle:
    """Puts the patches of least noise [B, N] first; equal noise keeps its order."""
    order = jnp.argsort(noise, axis=-1)
    return Shuffle(order, jnp.argsort(order, axis=-1))


def least(noise: jax.Array, count: int) -> jax.Array:
    """bool [..., N]: the ``count`` places of least noise [..., N], exactly so many."""
    return jnp.argsort(jnp.argsort(noise, axis=-1), axis=-1) < count


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def keep(x: jax.Array, shuffled: Shuffle, count: int) -> jax.Array:
    """The first ``count`` of the shuffled tokens: [B, N, D] -> [B, count, D].

    Its gradient is gathered by the inverse order, where that of a plain gather would be scattered.
    """
    return jnp.take_along_axis(x, shuffled.order[:, :count, None], axis=1)


def _keep_forward(x, shuffled, count):
    return keep(x, shuffled, count), shuffled.restore


def _keep_backward(count, restore, gradient):
    there = jnp.minimum(restore, count - 1)[..., None]
    gathered = jnp.take_along_axis(gradient, there, axis=1)
    return jnp.where((restore < count)[..., None], gathered, 0), None


keep.defvjp(_keep_forward, _keep_backward)


@jax.custom_vjp
def unshuffle(x: jax.Array, shuffled: Shuffle) -> jax.Array:
    """Tokens [B, N, D] in their shuffled order, back at their places; gradients are gathered."""
    return jnp.take_along_axis(x, shuffled.restore[..., None], axis=1)


def _unshuffle_forward(x, shuffled):
    return unshuffle(x, shuffled), shuffled.order


def _unshuffle_backward(order, gradient):
    return jnp.take_along_axis(gradient, order[..., None], axis=1), None


unshuffle.defvjp(_unshuffle_forward, _unshuffle_backward)
