"""Methods of pre-training, one paper a file; ``METHODS`` lists them by name."""

from repre_jax.methods import (
    byol,
    dino,
    lomar,
    lomar_tokens,
    mae,
    moby,
    moco_v2,
    moco_v3,
    repre,
    simclr,
    simsiam,
    windows_branch,
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
    "lomar_tokens": lomar_tokens,
}

# config.repre.branch -> module with build(config, encoder, model, loss_name); see branch.py
BRANCHES = {"decoder": repre, "windows": windows_branch}
