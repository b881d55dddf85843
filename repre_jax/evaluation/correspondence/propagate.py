"""Label propagation: each patch takes the labels of the most similar ones in earlier frames.

Source: facebookresearch/dino, eval_video_segmentation.py (label_propagation,
restrict_neighborhood, norm_mask, eval_video_tracking_davis).
"""

import functools
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from repre_jax.evaluation.knn import largest

# Similarities that are held at a time: patches of large frames take their turns.
_MOST_SIMILARITIES = 2**24


class Settings(NamedTuple):
    """What the propagation is made of; the defaults are DINO's.

    Attributes:
      radius: patches up and down, left and right, within which sources lie; 0 for the whole frame.
      neighbours: k sources of a patch, over all frames of the context.
      temperature: of exp(cosine / temperature).
      frames: latest frames of the context, beside the first one of the clip.
    """

    radius: int = 12
    neighbours: int = 5
    temperature: float = 0.1
    frames: int = 7


class Context(flax.struct.PyTreeNode):
    """The frames that labels come from: the first of the clip, then a ring of the latest.

    Attributes:
      features: [1 + frames, N, D], of length 1.
      labels: [1 + frames, N, C], soft.
      seen: int32, frames so far.
    """

    features: jax.Array
    labels: jax.Array
    seen: jax.Array


@functools.partial(jax.jit, static_argnames="settings")
def first_context(features: jax.Array, labels: jax.Array, settings: Settings) -> Context:
    """The context behind the first frame, from its features [N, D] and labels [N, C]."""
    places = 1 + settings.frames
    empty = jnp.zeros((places - 1, *features.shape))
    of_labels = jnp.zeros((places - 1, *labels.shape))
    return Context(
        jnp.concatenate([features[None], empty]),
        jnp.concatenate([labels[None], of_labels]),
        jnp.int32(1),
    )


@functools.partial(jax.jit, static_argnames=("grid", "settings"), donate_argnums=0)
def propagate(
    context: Context, features: jax.Array, *, grid: tuple[int, int], settings: Settings
) -> tuple[Context, jax.Array]:
    """Labels of the next frame, which joins the context.

    Of the patches of the context inside the neighbourhood, the k with the largest cosines give
    their labels, with weight exp(cosine / temperature). Of those that equal the k-th, of which the
    official code keeps all, the earlier ones are taken: a patch reads k sources and no more.

    Args:
      context: donated.
      features: [N, D] of the frame, of length 1.
      grid: (gh, gw), N = gh * gw.
      settings: of the propagation.

    Returns:
      (the context with this frame, soft labels [N, C]).
    """
    slots = jnp.arange(1 + settings.frames)
    there = slots < context.seen
    sources = context.features.reshape(-1, features.shape[-1])
    of_sources = context.labels.reshape(-1, context.labels.shape[-1])
    rows, columns = (x.reshape(-1) for x in jnp.indices(grid))
    highest = jax.lax.Precision.HIGHEST

    def chunk(query):
        feature, row, column = query
        cosines = jnp.einsum("qd,sd->qs", feature, sources, precision=highest)
        cosines = cosines.reshape(len(feature), len(slots), -1)
        allowed = there[None, :, None]
        if settings.radius:
            near = jnp.abs(row[:, None] - rows) <= settings.radius
            near &= jnp.abs(column[:, None] - columns) <= settings.radius
            allowed = allowed & near[:, None]
        cosines = jnp.where(allowed, cosines, -jnp.inf).reshape(len(feature), -1)
        nearest, places = largest(cosines, settings.neighbours)
        weights = jax.nn.softmax(nearest / settings.temperature, axis=1)
        return jnp.einsum("qk,qkc->qc", weights, of_sources[places], precision=highest)

    count = grid[0] * grid[1]
    turns = -(-count * len(sources) // _MOST_SIMILARITIES)
    per_turn = -(-count // turns)
    padded = [
        jnp.pad(x, ((0, per_turn * turns - count),) + ((0, 0),) * (x.ndim - 1)).reshape(
            turns, per_turn, *x.shape[1:]
        )
        for x in (features, rows, columns)
    ]
    labels = jax.lax.map(chunk, tuple(padded)).reshape(turns * per_turn, -1)[:count]
    # The first frame, which counts as seen, stays in slot 0; the ring begins behind it.
    slot = 1 + (context.seen - 1) % settings.frames
    following = Context(
        context.features.at[slot].set(features),
        context.labels.at[slot].set(labels),
        context.seen + 1,
    )
    return following, labels


@functools.partial(jax.jit, static_argnames=("grid", "size"))
def as_classes(labels: jax.Array, *, grid: tuple[int, int], size: tuple[int, int]) -> jax.Array:
    """Soft labels [N, C] of patches -> classes uint8 of a frame's pixels, ``size`` (H, W).

    Resized bilinearly; then every class is stretched to [0, 1] over the frame, unless it is nowhere
    above 0, and the largest wins.
    """
    maps = labels.T.reshape(-1, *grid)
    maps = jax.image.resize(maps, (len(maps), *size), "linear", antialias=False)
    low, high = (f(maps, axis=(1, 2), keepdims=True) for f in (jnp.min, jnp.max))
    stretched = (maps - low) / jnp.where(high > low, high - low, 1)
    maps = jnp.where(high > 0, stretched, maps)
    return jnp.argmax(maps, axis=0).astype(jnp.uint8)
