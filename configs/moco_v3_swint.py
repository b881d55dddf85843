"""MoCo v3 + RePre, Swin-T, ImageNet-1k, 300 epochs. Table 1 of RePre: 76.4 linear (baseline 75.4).

    python main.py --config=configs/moco_v3_swint.py            # with RePre
    python main.py --config=configs/moco_v3_swint.py:baseline   # without

The baseline is RePre's own re-implementation, of which nothing more is published. Ours is the
official ViT recipe on Swin-T: frozen patch projection, no drop path. Not measured here.
"""

from repre_jax.config_files import beside
from repre_jax.training import defaults

moco_v3_vits = beside(__file__, "moco_v3_vits")


def get_config(variants: str = ""):
    config = moco_v3_vits.get_config()
    defaults.swin_tiny(config)
    return defaults.apply_variants(config, variants)
