"""Encoders, heads and decoders as Flax modules; ``BACKBONES`` lists the encoders by name."""

from repre_jax.models.vit import VIT_SIZES, ViT, build_vit

# name -> function (model config, dtype) -> encoder module
BACKBONES = {name: build_vit for name in VIT_SIZES}

__all__ = ["BACKBONES", "ViT"]
