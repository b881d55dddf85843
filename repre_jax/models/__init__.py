"""Encoders, heads and decoders as Flax modules; ``BACKBONES`` lists the encoders by name."""

from repre_jax.models.vit import VIT_SIZES, ViT, build_vit

# name -> function (model config, dtype) -> encoder module
BACKBONES = dict.fromkeys(VIT_SIZES, build_vit)

__all__ = ["BACKBONES", "ViT"]
