"""Collapse meters: do the features still spread over the sphere?"""

import jax
import jax.numpy as jnp

from repre_jax.normalisation import l2_normalise


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
    return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(shares, shares)))
