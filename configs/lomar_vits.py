"""LoMaR, ViT-S/16, ImageNet-1k, 400 epochs.

    python main.py --config=configs/lomar_vits.py
    python main.py --config=configs/lomar_vits.py:released   # 1600 epochs
    python main.py --config=configs/lomar_vits.py:size=448   # or 384

The recipe of lomar_vitb.py on another encoder, which the paper does not train. Not measured here.
"""

from repre_jax.config_files import beside
from repre_jax.training import defaults

lomar_vitb = beside(__file__, "lomar_vitb")


def get_config(variants: str = ""):
    config = lomar_vitb.get_config()
    config.model.name = "vit_small"
    own = {"released": lomar_vitb.released, "epochs": lomar_vitb.epochs}
    return defaults.apply_variants(config, variants, own)
