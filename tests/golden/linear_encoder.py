"""The encoder of BYOL's and SimCLR's recordings: one linear layer on averaged colours."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from golden.cases_contrastive import LINEAR_PATCH, LINEAR_WIDTH

from repre_jax.models.pixels import IMAGENET, Normalisation
from repre_jax.models.taps import EncoderOutput


class LinearEncoder(nn.Module):
    """[B, S, S, 3] -> pooled [B, LINEAR_WIDTH], which is its only token, too."""

    size_multiple = LINEAR_PATCH
    dtype = jnp.float32
    channels = 3
    image_size: int
    normalisation: Normalisation | None = IMAGENET

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> EncoderOutput:
        batch, size = images.shape[:2]
        grid = size // LINEAR_PATCH
        patches = images.reshape(batch, grid, LINEAR_PATCH, grid, LINEAR_PATCH, 3)
        pooled = nn.Dense(LINEAR_WIDTH, name="dense")(patches.mean((2, 4)).reshape(batch, -1))
        return EncoderOutput(pooled=pooled, tokens=pooled[:, None])
