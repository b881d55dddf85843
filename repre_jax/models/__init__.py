"""Encoders, heads and decoders as Flax modules; ``BACKBONES`` lists the encoders by name."""

from repre_jax.models.swin import SWIN_SIZES, Swin, build_swin
from repre_jax.models.vit import VIT_SIZES, ViT, build_vit

# name -> function (model config, dtype) -> encoder module
BACKBONES = dict.fromkeys(VIT_SIZES, build_vit) | dict.fromkeys(SWIN_SIZES, build_swin)

__all__ = ["BACKBONES", "VIT_SIZES", "Swin", "ViT"]
