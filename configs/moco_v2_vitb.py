"""MoCo v2 + RePre, ViT-B/16, ImageNet-1k, 300 epochs. Not among RePre's rows.

    python main.py --config=configs/moco_v2_vitb.py            # with RePre
    python main.py --config=configs/moco_v2_vitb.py:baseline   # without
    python main.py --config=configs/moco_v2_vitb.py:official   # as published, but for the encoder

The ViT-S recipe (moco_v2_vits.py) on the larger encoder; no recipe is
published. Not measured here.
"""

from repre_jax.config_files import beside
from repre_jax.training import defaults

moco_v2_vits = beside(__file__, "moco_v2_vits")


def get_config(variants: str = ""):
    config = moco_v2_vits.get_config()
    config.model.update({"name": "vit_base", "heads": None})
    return defaults.apply_variants(config, variants, {"official": moco_v2_vits.official})
