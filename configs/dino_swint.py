"""DINO + RePre, Swin-T, ImageNet-1k, 300 epochs. Not among RePre's rows of linear accuracy.

    python main.py --config=configs/dino_swint.py            # with RePre
    python main.py --config=configs/dino_swint.py:baseline   # without

DINO's loss on Swin-T as EsViT (microsoft/esvit) trains it, view level only: 77.0 linear and 74.2
k-NN there without RePre. The 96-pixel crops run through windows of 7 by padding. Not measured here.
"""

from repre_jax.config_files import beside
from repre_jax.training import defaults

dino_vits = beside(__file__, "dino_vits")


def get_config(variants: str = ""):
    config = dino_vits.get_config()
    defaults.swin_tiny(config)
    config.model.norm_epsilon = 1e-6
    config.train.batch_size = 512
    return defaults.apply_variants(config, variants)
