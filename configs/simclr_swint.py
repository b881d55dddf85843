"""SimCLR + RePre, Swin-T, ImageNet-1k, 300 epochs. Not among RePre's rows.

    python main.py --config=configs/simclr_swint.py            # with RePre
    python main.py --config=configs/simclr_swint.py:baseline   # without
    python main.py --config=configs/simclr_swint.py:official   # as published, but for the encoder

The ViT-S recipe (simclr_vits.py) on Swin-T; no recipe is published. Not measured here.
"""

from repre_jax.config_files import beside
from repre_jax.training import defaults

simclr_vits = beside(__file__, "simclr_vits")


def get_config(variants: str = ""):
    config = simclr_vits.get_config()
    defaults.swin_tiny(config)
    return defaults.apply_variants(config, variants, {"official": simclr_vits.official})
