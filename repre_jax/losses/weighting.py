"""Uncertainty weighting of the two losses (arXiv 1705.07115), as RePre's equation 4 implies it.

Free factors alone would run to minus infinity, so Kendall's regulariser belongs to it. With the
log-variance s1 of a softmax likelihood and the log-scale s2 of a Laplace likelihood (whose negative
log-likelihood is an L1 loss):

    total = exp(-s1) * framework + s1 / 2 + exp(-s2) * reconstruct + s2

whose optimum is exp(-s1) = 1 / (2 framework), exp(-s2) = 1 / reconstruct. A normal likelihood (a
squared error) has the form of the softmax, but for a constant. The weighting needs losses that are
not negative: a negative one drives its s to minus infinity.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Weights(NamedTuple):
    """Factor of each loss and the term that keeps learned factors finite."""

    framework: jax.Array
    reconstruct: jax.Array
    regulariser: jax.Array


def learned_weights(
    framework: jax.Array, reconstruct: jax.Array, *, reconstruct_share: float = 1.0
) -> Weights:
    """Weights at log-variances s1 of the framework's loss and s2 of the reconstruction.

    Args:
      framework: s1.
      reconstruct: s2.
      reconstruct_share: of s2 in the regulariser: 1 for a mean absolute error, 1/2 for a mean
        squared one, whose likelihood is normal.
    """
    regulariser = framework / 2 + reconstruct_share * reconstruct
    return Weights(jnp.exp(-framework), jnp.exp(-reconstruct), regulariser)


def fixed_weights(framework: float, reconstruct: float) -> Weights:
    """Constant factors and no regulariser."""
    return Weights(jnp.float32(framework), jnp.float32(reconstruct), jnp.float32(0))
