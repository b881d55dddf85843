"""MAE on a folder of ImageNet-like images, for a small budget.

    python main.py --config=configs/imagenette_mae.py --config.data.path=<imagenette160>
    python main.py --config=configs/imagenette_mae.py:gpu --config.data.path=...

As imagenette_moco_v3.py, with patches of 8 of 64 pixels, so that there are 64 to hide, and a
decoder of half the encoder's width and two blocks. Measured: the README.
"""

from repre_jax.config_files import beside
from repre_jax.training import defaults

imagenette_moco_v3 = beside(__file__, "imagenette_moco_v3")
mae_vitb = beside(__file__, "mae_vitb")


def get_config(variants: str = ""):
    config = mae_vitb.get_config()
    config.method.update({"decoder_width": 64, "decoder_depth": 2, "decoder_heads": 4})
    small_budget(config)
    config.model.position = "sincos_columns_first"
    return defaults.apply_variants(config, variants, {"gpu": gpu})


def small_budget(config):
    """What MAE and LoMaR share at this size."""
    imagenette_moco_v3.small_budget(config)
    config.model.update({"patch_size": 8, "initialisation": "mae"})
    config.train.epochs = 40
    config.optimizer.update({"learning_rate": 2e-3, "warmup_epochs": 4.0})


def gpu(config):
    """ViT-S/16 at 160 px, 400 epochs, the paper's decoder: for one accelerator."""
    on_accelerator(config)
    config.method.update({"decoder_width": 512, "decoder_depth": 8, "decoder_heads": 16})


def on_accelerator(config):
    """The larger form of ``small_budget``."""
    imagenette_moco_v3.on_accelerator(config)
    config.model.patch_size = 16
    config.train.epochs = 400
    config.optimizer.update({"learning_rate": 1.5e-4, "warmup_epochs": 20.0})
