"""MoBY + RePre, ViT-B/16, ImageNet-1k, 300 epochs. Not among RePre's rows.

    python main.py --config=configs/moby_vitb.py            # with RePre
    python main.py --config=configs/moby_vitb.py:baseline   # without

The ViT-S recipe (moby_vits.py) on the larger encoder. Not measured here.
"""

from repre_jax.config_files import beside
from repre_jax.training import defaults

moby_vits = beside(__file__, "moby_vits")


def get_config(variants: str = ""):
    config = moby_vits.get_config()
    config.model.update({"name": "vit_base", "heads": None})
    return defaults.apply_variants(config, variants)
