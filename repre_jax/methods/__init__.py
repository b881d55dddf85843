"""Methods of pre-training, one paper a file; ``METHODS`` lists them by name."""

from repre_jax.methods import (
    byol,
    dino,
    lomar,
    mae,
    moby,
    moco_v2,
    moco_v3,
    simclr,
    simsiam,
)

# name -> module with default_config() and build(config, views, clock, encoder); see method.py
METHODS = {
    "simclr": simclr,
    "byol": byol,
    "simsiam": simsiam,
    "moco_v2": moco_v2,
    "moco_v3": moco_v3,
    "moby": moby,
    "dino": dino,
    "mae": mae,
    "lomar": lomar,
}
