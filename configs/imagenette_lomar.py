"""LoMaR on a folder of ImageNet-like images, for a small budget.

    python main.py --config=configs/imagenette_lomar.py --config.data.path=<imagenette160>
    python main.py --config=configs/imagenette_lomar.py:released_pairing --config.data.path=...
    python main.py --config=configs/imagenette_lomar.py:gpu --config.data.path=...

As imagenette_mae.py: 8 x 8 patches of 8 pixels, of which each of four windows has 4 x 4.
``:released_pairing`` pairs images and windows as the released code does. Measured: the README.
"""

from repre_jax.config_files import beside
from repre_jax.training import defaults

imagenette_mae = beside(__file__, "imagenette_mae")
lomar_vitb = beside(__file__, "lomar_vitb")


def get_config(variants: str = ""):
    config = lomar_vitb.get_config()
    config.method.side = 4
    imagenette_mae.small_budget(config)
    config.model.position = "relative"
    own = {"released_pairing": released_pairing, "gpu": gpu}
    return defaults.apply_variants(config, variants, own)


def released_pairing(config):
    """Windows of the whole batch, repeated as in the released code (methods/windows.py)."""
    config.method.pairing = "released"


def gpu(config):
    """ViT-S/16 at 160 px, 400 epochs, windows of 7 x 7: for one accelerator."""
    imagenette_mae.on_accelerator(config)
    config.method.side = 7
