"""Losses with negatives."""

import jax
import jax.numpy as jnp

from repre_jax.normalisation import l2_normalise


def in_batch_info_nce(queries: jax.Array, keys: jax.Array, *, temperature: float) -> jax.Array:
    """InfoNCE whose negatives are the keys of the other examples of the global batch.

    RePre equation 1 with the batch as dictionary. Queries and keys are L2-normalised here; whether
    gradient flows into the keys is the caller's choice.

    Args:
      queries: [B, D].
      keys: [B, D]; row i is the positive of query i.
      temperature: tau.

    Returns:
      float32 [B]: cross-entropy of each query; log B when all features are equal.
    """
    if queries.shape != keys.shape or queries.ndim != 2:
        raise ValueError(f"queries {queries.shape} and keys {keys.shape} must both be [B, D]")
    similarity = jnp.matmul(
        l2_normalise(queries), l2_normalise(keys).T, precision=jax.lax.Precision.HIGHEST
    )  # [B, B]
    log_probabilities = jax.nn.log_softmax(similarity / temperature, axis=-1)
    return -jnp.diagonal(log_probabilities)
