"""BYOL + RePre, ViT-S/16, ImageNet-1k, 300 epochs. Table 1 of RePre: 72.2 linear (baseline 71.4).

    python main.py --config=configs/byol_vits.py            # with RePre
    python main.py --config=configs/byol_vits.py:baseline   # without
    python main.py --config=configs/byol_vits.py:official   # heads, views, optimizer of BYOL

BYOL is official on ResNet-50 only. The baseline on ViT is the DINO paper's, which publishes no
recipe: this is MoCo v3's, with its heads and BYOL's loss. ``:official`` is the 300-epoch recipe of
google-deepmind/deepmind-research, byol/configs/byol.py: LARS, 0.3 per 256 (other lengths there:
0.45 for 100 epochs; 0.2, weight decay 1.5e-6 and momentum 0.996 for 1,000), with its jitter and
blur; crops are drawn and resized (antialiased) as torchvision does. Not measured here.
"""

from repre_jax.config_files import beside
from repre_jax.methods import byol, moco_v3
from repre_jax.training import defaults

moco_v3_vits = beside(__file__, "moco_v3_vits")


def get_config(variants: str = ""):
    config = defaults.get_config("byol")
    moco_v3_vits.recipe(config)
    defaults.use_views(config, moco_v3.VIEWS)
    config.method.update({"heads": "moco_v3", "freeze_patch_embedding": True})
    return defaults.apply_variants(config, variants, {"official": official})


def official(config):
    """BYOL as published, but for the encoder."""
    config.method = byol.default_config()
    defaults.own_views(config)
    config.optimizer.update({"name": "lars", "learning_rate": 0.3, "decay": "matrices"})
    config.optimizer.update({"weight_decay": 1e-6, "end_weight_decay": 1e-6, "warmup_epochs": 10.0})
