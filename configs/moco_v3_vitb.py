"""MoCo v3 + RePre, ViT-B/16, ImageNet-1k, 300 epochs. Table 1 of RePre: 77.2 (baseline 76.5).

    python main.py --config=configs/moco_v3_vitb.py            # with RePre
    python main.py --config=configs/moco_v3_vitb.py:baseline   # without
    python main.py --config=configs/moco_v3_vitb.py:conv_stem  # the authors' vit_conv_base

The ViT-S recipe on the larger encoder, as in the official CONFIG.md, whose run reaches 76.7 linear
without RePre. Hardware there: 64 GPUs; not measured here.
"""

from repre_jax.config_files import beside
from repre_jax.training import defaults

moco_v3_vits = beside(__file__, "moco_v3_vits")


def get_config(variants: str = ""):
    config = moco_v3_vits.get_config()
    config.model.update({"name": "vit_base", "heads": None})
    return defaults.apply_variants(config, variants, {"conv_stem": conv_stem})


def conv_stem(config):
    """vit_conv_base of the official vits.py."""
    moco_v3_vits.use_conv_stem(config, "vit_conv_base")
