"""Uncertainty weighting of the two losses (arXiv 1705.07115), as RePre's equation 4 implies it.

Free factors alone would run to minus infinity, so Kendall's regulariser belongs to it. With the
log-variance s1 of a softmax likelihood and the log-scale s2 of a Laplace likelihood (whose negative
log-likelihood is an L1 loss):

    total = exp(-s1) * contrast + s1 / 2 + exp(-s2) * reconstruct + s2

whose optimum is exp(-s1) = 1 / (2 contrast), exp(-s2) = 1 / reconstruct. It needs losses that are
not negative: a negative one drives its s to minus infinity.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Weights(NamedTuple):
    """Factor of each loss and the term that keeps learned factors finite."""

    contrast: jax.Array
    reconstruct: jax.Array
    regulariser: jax.Array


def learned_weights(log_variance: dict[str, jax.Array]) -> Weights:
    """Weights of the current log-variances {"contrast": (), "reconstruct": ()}."""
    contrast, reconstruct = log_variance["contrast"], log_variance["reconstruct"]
    return Weights(jnp.exp(-contrast), jnp.exp(-reconstruct), contrast / 2 + reconstruct)


def fixed_weights(contrast: float, reconstruct: float) -> Weights:
    """Constant factors and no regulariser."""
    return Weights(jnp.float32(contrast), jnp.float32(reconstruct), jnp.float32(0))
