"""SimSiam + RePre, Swin-T, ImageNet-1k, 300 epochs. Not among RePre's rows.

    python main.py --config=configs/simsiam_swint.py            # with RePre
    python main.py --config=configs/simsiam_swint.py:baseline   # without
    python main.py --config=configs/simsiam_swint.py:official   # as published, but for the encoder

The ViT-S recipe (simsiam_vits.py) on Swin-T; no recipe is published. Not measured here.
"""

from repre_jax.config_files import beside
from repre_jax.training import defaults

simsiam_vits = beside(__file__, "simsiam_vits")


def get_config(variants: str = ""):
    config = simsiam_vits.get_config()
    defaults.swin_tiny(config)
    return defaults.apply_variants(config, variants, {"official": simsiam_vits.official})
