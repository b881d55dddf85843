"""Encoders, heads and decoders as Flax modules; ``BACKBONES`` lists the encoders by name."""

import flax.linen as nn
import jax.numpy as jnp
from ml_collections import ConfigDict

from repre_jax.models.pixels import normalisation_of
from repre_jax.models.swin import SWIN_SIZES, Swin, build_swin
from repre_jax.models.vit import VIT_SIZES, ViT, build_vit

# name -> function (model config, dtype) -> encoder module
BACKBONES = dict.fromkeys(VIT_SIZES, build_vit) | dict.fromkeys(SWIN_SIZES, build_swin)

__all__ = ["BACKBONES", "VIT_SIZES", "Swin", "ViT", "build_encoder"]


def build_encoder(config: ConfigDict, dtype: jnp.dtype) -> nn.Module:
    """The encoder of a run.

    Args:
      config: of the run, of which ``model`` says what the encoder is like, and ``data.mean`` and
        ``data.std`` how it takes pixels.
      dtype: of activations.

    Raises:
      UserError: keys that do not fit together.
    """
    model = config.model
    normalisation = normalisation_of(config.data, channels=model.channels, wanted=model.normalise)
    return BACKBONES[model.name](model, dtype).clone(normalisation=normalisation)
