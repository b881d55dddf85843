"""SimSiam + RePre, ViT-B/16, ImageNet-1k, 300 epochs. RePre reports no SimSiam.

    python main.py --config=configs/simsiam_vitb.py            # with RePre
    python main.py --config=configs/simsiam_vitb.py:baseline   # without
    python main.py --config=configs/simsiam_vitb.py:official   # as published, but for the encoder

The ViT-S recipe (simsiam_vits.py) on the larger encoder; no recipe is
published. Not measured here.
"""

from repre_jax.config_files import beside
from repre_jax.training import defaults

simsiam_vits = beside(__file__, "simsiam_vits")


def get_config(variants: str = ""):
    config = simsiam_vits.get_config()
    config.model.update({"name": "vit_base", "heads": None})
    return defaults.apply_variants(config, variants, {"official": simsiam_vits.official})
