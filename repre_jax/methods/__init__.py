"""Contrastive frameworks, one paper a file; ``METHODS`` lists them by name."""

from repre_jax.methods import dino, moco_v3

# name -> module with default_config() and build(config, views, clock, dtype)
METHODS = {"dino": dino, "moco_v3": moco_v3}
