"""LoMaR, ViT-B/16, ImageNet-1k, 400 epochs (arXiv 2206.00790).

    python main.py --config=configs/lomar_vitb.py            # 400 epochs
    python main.py --config=configs/lomar_vitb.py:released   # 1600 epochs, the published weights
    python main.py --config=configs/lomar_vitb.py:size=448   # or 384

The command of README.md (junchen14/LoMaR): four windows of 7 x 7 patches, 80 % masked. The weights
of 1600 epochs reach 84.1 fine-tuned at 224 there. A step costs the same at every image size, since
the encoder sees nothing but the windows. Hardware there: 4 GPUs; not measured here.
"""

from repre_jax.config_files import beside
from repre_jax.training import defaults

mae_vitb = beside(__file__, "mae_vitb")


def get_config(variants: str = ""):
    config = defaults.get_config("lomar")
    config.repre.enabled = False
    config.model.name = "vit_base"
    recipe(config)
    return defaults.apply_variants(config, variants, {"released": released, "epochs": epochs})


def recipe(config):
    """MAE's optimizer; the warm-up is a twentieth of the run (issue 3 of junchen14/LoMaR)."""
    mae_vitb.recipe(config)
    config.train.epochs = 400
    config.optimizer.warmup_epochs = 20.0


def released(config):
    """The length of the published weights."""
    epochs(config, "1600")


def epochs(config, count):
    """Length of the run, and of the warm-up with it."""
    defaults.epochs(config, count)
    config.optimizer.warmup_epochs = config.train.epochs / 20
