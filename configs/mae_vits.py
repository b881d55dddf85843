"""MAE, ViT-S/16, ImageNet-1k, 800 epochs.

    python main.py --config=configs/mae_vits.py              # 800 epochs
    python main.py --config=configs/mae_vits.py:epochs=1600
    python main.py --config=configs/mae_vits.py:size=448     # or 384

The recipe of mae_vitb.py on another encoder, which the paper does not train. Not measured here.
"""

from repre_jax.config_files import beside
from repre_jax.training import defaults

mae_vitb = beside(__file__, "mae_vitb")


def get_config(variants: str = ""):
    config = mae_vitb.get_config()
    config.model.name = "vit_small"
    return defaults.apply_variants(config, variants)
