"""MAE, ViT-L/16, ImageNet-1k, 800 epochs.

    python main.py --config=configs/mae_vitl.py              # 800 epochs
    python main.py --config=configs/mae_vitl.py:epochs=1600
    python main.py --config=configs/mae_vitl.py:size=448     # or 384

The recipe of mae_vitb.py on another encoder, PRETRAIN.md's own command (facebookresearch/mae): 800
epochs take about 42 hours on 64 V100 there. Not measured here.
"""

from repre_jax.config_files import beside
from repre_jax.training import defaults

mae_vitb = beside(__file__, "mae_vitb")


def get_config(variants: str = ""):
    config = mae_vitb.get_config()
    config.model.name = "vit_large"
    return defaults.apply_variants(config, variants)
