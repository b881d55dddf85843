"""MoBY + RePre, Swin-T, ImageNet-1k, 300 epochs. Table 1 of RePre: 76.1 linear (baseline 75.0).

    python main.py --config=configs/moby_swint.py              # with RePre
    python main.py --config=configs/moby_swint.py:baseline     # without
    python main.py --config=configs/moby_swint.py:epochs=100   # 71.8 (baseline 70.9)

The official recipe (SwinTransformer/Transformer-SSL, configs/moby_swin_tiny.yaml); 75.3 linear in
the repository without RePre. Not measured here.
"""

from repre_jax.config_files import beside
from repre_jax.training import defaults

moby_vits = beside(__file__, "moby_vits")


def get_config(variants: str = ""):
    config = moby_vits.get_config()
    defaults.swin_tiny(config)
    return defaults.apply_variants(config, variants)
