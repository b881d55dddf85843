"""SimCLR + RePre, ViT-S/16, ImageNet-1k, 300 epochs. Table 1 of RePre: 69.7 linear (baseline 69.0).

    python main.py --config=configs/simclr_vits.py            # with RePre
    python main.py --config=configs/simclr_vits.py:baseline   # without
    python main.py --config=configs/simclr_vits.py:official   # heads, views, optimizer of SimCLR

SimCLR is official on ResNet-50 only. The baseline on ViT is the MoCo v3 paper's, which publishes no
recipe: this is MoCo v3's without predictor and target network, at SimCLR's temperature.
``:official`` is google-research/simclr (tf2/run.py): LARS, 0.3 per 256, images in [0, 1]; weight
decay is the flag's 1e-6, where the README's command says 1e-4. Jitter and blur are its own; crops
are drawn and resized (antialiased) as torchvision does. Not measured here.
"""

from repre_jax.config_files import beside
from repre_jax.methods import moco_v3, simclr
from repre_jax.training import defaults

moco_v3_vits = beside(__file__, "moco_v3_vits")


def get_config(variants: str = ""):
    config = defaults.get_config("simclr")
    moco_v3_vits.recipe(config)
    defaults.use_views(config, moco_v3.VIEWS)
    config.method.update({"heads": "moco_v3", "hidden": 4096, "output": 256})
    config.method.freeze_patch_embedding = True
    return defaults.apply_variants(config, variants, {"official": official})


def official(config):
    """SimCLR as published, but for the encoder."""
    config.method = simclr.default_config()
    defaults.own_views(config)
    config.model.normalise = False
    config.train.epochs = 100
    config.optimizer.update({"name": "lars_simclr", "learning_rate": 0.3, "decay": "matrices"})
    config.optimizer.update({"weight_decay": 1e-6, "end_weight_decay": 1e-6, "warmup_epochs": 10.0})
