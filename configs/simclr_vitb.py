"""SimCLR + RePre, ViT-B/16, ImageNet-1k, 300 epochs. Table 1 of RePre: 74.4 linear (baseline 73.9).

    python main.py --config=configs/simclr_vitb.py            # with RePre
    python main.py --config=configs/simclr_vitb.py:baseline   # without
    python main.py --config=configs/simclr_vitb.py:official   # as published, but for the encoder

The ViT-S recipe (simclr_vits.py) on the larger encoder; no recipe is
published. Not measured here.
"""

from repre_jax.config_files import beside
from repre_jax.training import defaults

simclr_vits = beside(__file__, "simclr_vits")


def get_config(variants: str = ""):
    config = simclr_vits.get_config()
    config.model.update({"name": "vit_base", "heads": None})
    return defaults.apply_variants(config, variants, {"official": simclr_vits.official})
