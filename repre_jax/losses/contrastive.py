"""Losses with negatives."""

import jax
import jax.numpy as jnp

from repre_jax.losses.normalisation import l2_normalise


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


def nt_xent(first: jax.Array, second: jax.Array, *, temperature: float) -> jax.Array:
    """SimCLR's loss: every view against the other views of the global batch, its own pair apart.

    Both directions are added, not averaged, as google-research/simclr does (tf2/objective.py,
    add_contrastive_loss): twice the mean of the paper's equation 1. Gradient flows into both.

    Args:
      first: [B, D], normalised here.
      second: [B, D]; row i is the other view of row i.
      temperature: tau.

    Returns:
      float32 [B]; 2 log(2B - 1) when all features are equal.
    """
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(f"views {first.shape} and {second.shape} must both be [B, D]")
    batch = first.shape[0]
    views = l2_normalise(jnp.concatenate([first, second]))
    similarity = jnp.matmul(views, views.T, precision=jax.lax.Precision.HIGHEST) / temperature
    similarity = jnp.where(jnp.eye(2 * batch, dtype=bool), -jnp.inf, similarity)
    log_probabilities = jax.nn.log_softmax(similarity, axis=-1)
    forth = jnp.diagonal(log_probabilities, offset=batch)
    back = jnp.diagonal(log_probabilities, offset=-batch)
    return -(forth + back)


def queue_info_nce(
    queries: jax.Array, keys: jax.Array, queue: jax.Array, *, temperature: float
) -> jax.Array:
    """InfoNCE whose negatives are remembered keys (MoCo, equation 1).

    Args:
      queries: [B, D], normalised here.
      keys: [B, D], normalised here; row i is the positive of query i.
      queue: normalised keys of earlier batches [Q, D]; no gradient flows into them.
      temperature: tau.

    Returns:
      float32 [B]; log(Q + 1) when all features are equal.
    """
    if queries.shape != keys.shape or queries.ndim != 2 or queue.shape[1:] != keys.shape[1:]:
        raise ValueError(f"queries {queries.shape}, keys {keys.shape}, queue {queue.shape}")
    queries = l2_normalise(queries)
    positive = jnp.sum(queries * l2_normalise(keys), axis=-1) / temperature
    negatives = jnp.matmul(
        queries, jax.lax.stop_gradient(queue).T, precision=jax.lax.Precision.HIGHEST
    )  # [B, Q]
    rest = jax.nn.logsumexp(negatives / temperature, axis=-1)
    return jnp.logaddexp(positive, rest) - positive
