"""SimCLR + RePre, Swin-T, ImageNet-1k, 300 epochs. Not among RePre's rows.

    python main.py --config=configs/simclr_swint.py            # with RePre
    python main.py --config=configs/simclr_swint.py:baseline   # without
    python main.py --config=configs/simclr_swint.py:official   # as published, but for the encoder

The ViT-S recipe (simclr_vits.py) on Swin-T; no recipe is published. Not measured here.
"""

from configs import default, simclr_vits


def get_config(variants: str = ""):
    config = simclr_vits.get_config()
    default.swin_tiny(config)
    return default.apply_variants(config, variants, {"official": simclr_vits.official})
