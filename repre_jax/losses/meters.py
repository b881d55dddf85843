"""Collapse meters: do the features still spread over the sphere?"""

import math

import jax
import jax.numpy as jnp

from repre_jax.losses.normalisation import l2_normalise

# If all features are one common direction plus a deviation of relative length e, their std is about
# e / sqrt(D): at 0.05 the mean cosine of two images is 0.9975. Untrained transformers, whose
# features resemble each other most of all healthy ones, have 0.18 on digits, 0.7 on photographs.
_COLLAPSED_STD_SHARE = 0.05
# Below two there is no second direction; a collapse onto two opposite points reads as one.
_COLLAPSED_RANK = 2.0
# DINO (arXiv 2104.14294, section 5.3 and figure 7): in a collapse teacher and student agree
# whatever the image, so their divergence vanishes while the teacher's entropy is 0 (one prototype
# takes all) or log K (all alike). An entropy near either end means nothing by itself.
_VANISHED_DIVERGENCE = 0.01
_ENTROPY_MARGIN = 0.01


def feature_std(features: jax.Array) -> jax.Array:
    """Mean over dimensions of the standard deviation over examples of L2-normalised features.

    About 1/sqrt(D) for features spread evenly over the sphere, 0 when all are the same
    (SimSiam, arXiv 2011.10566, section 4.1).

    Args:
      features: [n, D].

    Returns:
      float32 scalar.
    """
    return jnp.std(l2_normalise(features), axis=0).mean()


def effective_rank(features: jax.Array) -> jax.Array:
    """Exponential of the entropy of the singular values (RankMe, arXiv 2210.02885, equation 1).

    From 1, when all features lie on one line, to min(n, D), when all directions are used alike.

    Args:
      features: [n, D], neither normalised nor centred.

    Returns:
      float32 scalar.
    """
    # From the matrix itself: the Gram matrix would square the condition number, and float32 noise
    # in its small eigenvalues reads as rank.
    values = jnp.linalg.svd(jnp.asarray(features, jnp.float32), compute_uv=False)
    shares = values / jnp.maximum(values.sum(), jnp.finfo(jnp.float32).tiny)
    return jnp.exp(jnp.sum(jax.scipy.special.entr(shares)))


def alignment(first: jax.Array, second: jax.Array) -> jax.Array:
    """|x - y|^2 of L2-normalised features of two views of each image: its mean is the alignment.

    0 when the views of an image are the same. Source: arXiv 2005.10242, section 4.1, alpha = 2.

    Args:
      first, second: [n, D], row by row of the same images.

    Returns:
      float32 [n].
    """
    return jnp.sum((l2_normalise(first) - l2_normalise(second)) ** 2, axis=1)


def uniformity(features: jax.Array) -> jax.Array:
    """log of the mean of exp(-2 |x - y|^2) over pairs of different L2-normalised features.

    0 when all are the same; the lower, the more evenly they spread over the sphere. Source: arXiv
    2005.10242, section 4.1, t = 2.

    Args:
      features: [n, D], n at least 2.

    Returns:
      float32 scalar.
    """
    unit = l2_normalise(features)
    count = len(unit)

    def row(query_and_place):
        query, place = query_and_place
        distances = jnp.sum((unit - query) ** 2, axis=1)
        others = jnp.arange(count) != place
        return jnp.sum(jnp.exp(-2 * distances) * others)

    total = jnp.sum(jax.lax.map(row, (unit, jnp.arange(count)), batch_size=64))
    return jnp.log(total / (count * (count - 1)))


def spectrum(features: jax.Array) -> jax.Array:
    """Singular values of the centred features as shares of their sum, descending, [min(n, D)]."""
    features = jnp.asarray(features, jnp.float32)
    values = jnp.linalg.svd(features - features.mean(axis=0), compute_uv=False)
    return values / jnp.maximum(values.sum(), jnp.finfo(jnp.float32).tiny)


def collapse_verdict(
    std: float,
    width: int,
    rank: float,
    *,
    teacher_entropy: float | None = None,
    teacher_divergence: float | None = None,
    prototypes: int | None = None,
) -> str | None:
    """A plain sentence when the features have collapsed, None while they are healthy.

    Args:
      std: of ``feature_std``.
      width: D of the features.
      rank: of ``effective_rank``.
      teacher_entropy: mean entropy of the teacher's distributions in nats, DINO only.
      teacher_divergence: cross-entropy loss less that entropy, in nats.
      prototypes: K, over which the teacher's distributions go.
    """
    even = width**-0.5
    if not std >= _COLLAPSED_STD_SHARE * even:  # so that NaN is no health either
        return (
            f"The features have collapsed to one point: their std is {std:.2g}, where an even "
            f"spread over {width} dimensions has {even:.2g}."
        )
    if rank < _COLLAPSED_RANK:
        return (
            f"The features have collapsed to one line: their effective rank is {rank:.2f} of "
            f"{width}."
        )
    if teacher_entropy is None or teacher_divergence is None or prototypes is None:
        return None
    if abs(teacher_divergence) > _VANISHED_DIVERGENCE:
        return None
    share = teacher_entropy / math.log(prototypes)
    if share < _ENTROPY_MARGIN:
        return (
            "The teacher has collapsed onto one prototype: its entropy is "
            f"{teacher_entropy:.2g} nats and the student agrees whatever the image."
        )
    if share > 1 - _ENTROPY_MARGIN:
        return (
            f"The teacher has collapsed to even indifference: its entropy is {teacher_entropy:.2f} "
            f"of at most {math.log(prototypes):.2f} nats and the student agrees whatever the image."
        )
    return None
