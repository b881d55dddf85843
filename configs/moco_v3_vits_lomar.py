"""MoCo v3 with LoMaR's windows as its reconstruction, ViT-S/16, ImageNet-1k, 300 epochs.

    python main.py --config=configs/moco_v3_vits_lomar.py
    python main.py --config=configs/moco_v3_vits_lomar.py:baseline   # MoCo v3 alone

What neither paper has: the encoder that contrasts two views also predicts masked patches in four
windows of view 1, in place of RePre's decoder on all of it. Not measured here.
"""

from repre_jax.config_files import beside
from repre_jax.training import defaults

moco_v3_vits = beside(__file__, "moco_v3_vits")


def get_config(variants: str = ""):
    config = moco_v3_vits.get_config()
    config.repre.branch = "windows"
    return defaults.apply_variants(config, variants)
