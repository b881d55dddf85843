"""BYOL + RePre, Swin-T, ImageNet-1k, 300 epochs. Not among RePre's rows.

    python main.py --config=configs/byol_swint.py            # with RePre
    python main.py --config=configs/byol_swint.py:baseline   # without
    python main.py --config=configs/byol_swint.py:official   # as published, but for the encoder

The ViT-S recipe (byol_vits.py) on Swin-T; no recipe is published. Not measured here.
"""

from repre_jax.config_files import beside
from repre_jax.training import defaults

byol_vits = beside(__file__, "byol_vits")


def get_config(variants: str = ""):
    config = byol_vits.get_config()
    defaults.swin_tiny(config)
    return defaults.apply_variants(config, variants, {"official": byol_vits.official})
