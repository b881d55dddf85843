"""Boxes (x0, y0, x1, y1) in pixels, float32, a pixel's area between its edges.

Everything here stays float32 whatever the compute dtype: bfloat16 cannot tell neighbouring pixels
apart above 256.
"""

import math

import jax
import jax.numpy as jnp

# Standard deviations that the deltas of a stage are measured in (detectron2's weights inverted).
PROPOSAL_DEVIATIONS = (1.0, 1.0, 1.0, 1.0)
REGION_DEVIATIONS = (0.1, 0.1, 0.2, 0.2)
# What a box may grow to in one decoding, so that a wild delta stays finite: detectron2
# (modeling/box_regression.py) and torchvision limit growth; mmdetection limits shrinking, too.
LARGEST_LOG_RATIO = math.log(1000.0 / 16)


def area(boxes: jax.Array) -> jax.Array:
    """[..., 4] -> [...]; 0 for boxes without extent."""
    extent = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    return extent[..., 0] * extent[..., 1]


def intersection_over_union(first: jax.Array, second: jax.Array) -> jax.Array:
    """[..., N, 4] and [..., M, 4] -> [..., N, M] in [0, 1]; 0 where both are empty."""
    first, second = first[..., :, None, :], second[..., None, :, :]
    low = jnp.maximum(first[..., :2], second[..., :2])
    high = jnp.minimum(first[..., 2:], second[..., 2:])
    overlap = area(jnp.concatenate([low, high], axis=-1))
    union = area(first) + area(second) - overlap
    return jnp.where(overlap > 0, overlap / jnp.where(union > 0, union, 1), 0)


def encode(
    boxes: jax.Array, references: jax.Array, deviations: tuple[float, ...] = REGION_DEVIATIONS
) -> jax.Array:
    """Deltas [..., 4] that take ``references`` to ``boxes`` (R-CNN, arXiv 1311.2524, appendix C).

    Boxes without extent, padding that is, count as of one pixel: their deltas are finite, and so
    are gradients of what weighs them with 0.
    """
    (centre, size), (own_centre, own_size) = map(_centre_and_size, (boxes, references))
    shift = (centre - own_centre) / own_size
    return jnp.concatenate([shift, jnp.log(size / own_size)], axis=-1) / jnp.asarray(deviations)


def decode(
    deltas: jax.Array, references: jax.Array, deviations: tuple[float, ...] = REGION_DEVIATIONS
) -> jax.Array:
    """Boxes [..., 4] that ``deltas`` take ``references`` to."""
    deltas = deltas.astype(jnp.float32) * jnp.asarray(deviations)
    size = references[..., 2:] - references[..., :2]
    centre = references[..., :2] + size / 2 + deltas[..., :2] * size
    half = size * jnp.exp(jnp.minimum(deltas[..., 2:], LARGEST_LOG_RATIO)) / 2
    return jnp.concatenate([centre - half, centre + half], axis=-1)


def clip(boxes: jax.Array, size: jax.Array) -> jax.Array:
    """[..., 4] inside images of ``size`` (height, width) [..., 2]."""
    limit = jnp.concatenate([size[..., ::-1], size[..., ::-1]], axis=-1)
    return jnp.clip(boxes, 0, limit)


def _centre_and_size(boxes):
    size = boxes[..., 2:] - boxes[..., :2]
    size = jnp.where(size > 0, size, 1)  # before the logarithm, or its gradient would be NaN
    return boxes[..., :2] + size / 2, size
