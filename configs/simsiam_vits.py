"""SimSiam + RePre, ViT-S/16, ImageNet-1k, 300 epochs. RePre reports no SimSiam.

    python main.py --config=configs/simsiam_vits.py            # with RePre
    python main.py --config=configs/simsiam_vits.py:baseline   # without
    python main.py --config=configs/simsiam_vits.py:official   # views and optimizer of SimSiam

SimSiam is official on ResNet-50 only, and no recipe on ViT is published: this is MoCo v3's with
SimSiam's loss and heads, the projector 2,048 wide where SimSiam has the encoder's width, which is
384 here; the predictor's learning rate is held at its peak. ``:official`` is
facebookresearch/simsiam: SGD, 0.05 per 256, batch 512, 100 epochs. Not measured here.
"""

from repre_jax.config_files import beside
from repre_jax.methods import moco_v3, simsiam
from repre_jax.training import defaults

moco_v3_vits = beside(__file__, "moco_v3_vits")


def get_config(variants: str = ""):
    config = defaults.get_config("simsiam")
    moco_v3_vits.recipe(config)
    defaults.use_views(config, moco_v3.VIEWS)
    config.method.update({"hidden": 2048, "freeze_patch_embedding": True})
    return defaults.apply_variants(config, variants, {"official": official})


def official(config):
    """SimSiam as published, but for the encoder."""
    config.method = simsiam.default_config()
    defaults.own_views(config)
    config.train.update({"batch_size": 512, "epochs": 100})
    config.optimizer.update({"name": "sgd", "learning_rate": 0.05, "schedule": "moco_v2"})
    config.optimizer.update({"weight_decay": 1e-4, "end_weight_decay": 1e-4, "warmup_epochs": 0.0})
