"""The loss without negatives of BYOL and SimSiam."""

import jax
import jax.numpy as jnp

from repre_jax.losses.normalisation import l2_normalise


def negative_cosine(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """-cos of the angle between rows; SimSiam's D (arXiv 2011.10566, equation 1).

    BYOL's squared distance of unit vectors (arXiv 2006.07733, equation 2) is 2 + 2 of it. Whether
    gradient flows into the target is the caller's choice.

    Args:
      prediction: [B, D].
      target: [B, D].

    Returns:
      float32 [B] in [-1, 1].
    """
    if prediction.shape != target.shape or prediction.ndim != 2:
        raise ValueError(f"prediction {prediction.shape} and target {target.shape} must be [B, D]")
    return -jnp.sum(l2_normalise(prediction) * l2_normalise(target), axis=-1)
