"""BYOL + RePre, ViT-B/16, ImageNet-1k, 300 epochs. Table 1 of RePre: 74.8 linear (baseline 73.9).

    python main.py --config=configs/byol_vitb.py            # with RePre
    python main.py --config=configs/byol_vitb.py:baseline   # without
    python main.py --config=configs/byol_vitb.py:official   # as published, but for the encoder

The ViT-S recipe (byol_vits.py) on the larger encoder; no recipe is
published. Not measured here.
"""

from repre_jax.config_files import beside
from repre_jax.training import defaults

byol_vits = beside(__file__, "byol_vits")


def get_config(variants: str = ""):
    config = byol_vits.get_config()
    config.model.update({"name": "vit_base", "heads": None})
    return defaults.apply_variants(config, variants, {"official": byol_vits.official})
