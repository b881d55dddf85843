"""Losses on the patches that a masked method hides: pixels (MAE, LoMaR) or token ids."""

import jax
import jax.numpy as jnp
import optax


def patch_targets(patches: jax.Array, *, per_patch: bool) -> jax.Array:
    """What is to be predicted of patches of pixels [..., P * P * 3], in float32.

    Args:
      patches: as the encoder takes their pixels.
      per_patch: less the mean of each patch, over its deviation (unbiased variance, 1e-6 added to
        it): the ``norm_pix_loss`` of MAE (facebookresearch/mae, models_mae.py, forward_loss).
    """
    patches = patches.astype(jnp.float32)
    if not per_patch:
        return patches
    mean, deviation = patch_moments(patches)
    return (patches - mean) / deviation


def patch_moments(patches: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(mean, deviation) of each patch [..., P * P * 3], float32 [..., 1]; never zero."""
    patches = patches.astype(jnp.float32)
    mean = jnp.mean(patches, axis=-1, keepdims=True)
    variance = jnp.var(patches, axis=-1, keepdims=True, ddof=1)
    return mean, jnp.sqrt(variance + 1e-6)


def masked_squared_error(prediction: jax.Array, target: jax.Array, masked: jax.Array) -> jax.Array:
    """Mean over masked patches of the mean squared error of their pixels.

    Args:
      prediction, target: [B, ..., P * P * 3].
      masked: bool [B, ...], equally many in every row.

    Returns:
      float32 [B].
    """
    if prediction.shape != target.shape or masked.shape != target.shape[:-1]:
        raise ValueError(f"{prediction.shape}, {target.shape} and {masked.shape} do not fit")
    error = jnp.mean(jnp.square(prediction.astype(jnp.float32) - target), axis=-1)
    return masked_mean(error, masked)


def masked_cross_entropy(logits: jax.Array, ids: jax.Array, masked: jax.Array) -> jax.Array:
    """Mean over masked patches of the cross-entropy against token ids, in nats.

    Args:
      logits: [B, ..., C].
      ids: int [B, ...].
      masked: bool [B, ...].

    Returns:
      float32 [B].
    """
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), ids)
    return masked_mean(entropy, masked)


def masked_mean(values: jax.Array, masked: jax.Array) -> jax.Array:
    """Mean of the masked among values [B, ...] of every row, float32 [B]."""
    axes = tuple(range(1, values.ndim))
    return jnp.sum(values, axis=axes, where=masked) / jnp.sum(masked, axis=axes)
