"""RePre's pixel loss."""

import jax
import jax.numpy as jnp


def mean_absolute_error(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """RePre equation 3: mean |prediction - target| over the pixels and colours of each image.

    Args:
      prediction: [B, H, W, C].
      target: [B, H, W, C] in [0, 1]: the augmented view before normalisation.

    Returns:
      float32 [B].
    """
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {prediction.shape} and target {target.shape} differ")
    difference = prediction.astype(jnp.float32) - target.astype(jnp.float32)
    return jnp.mean(jnp.abs(difference), axis=(1, 2, 3))
