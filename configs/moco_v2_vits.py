"""MoCo v2 + RePre, ViT-S/16, ImageNet-1k. Table 1 of RePre: 72.1 linear (baseline 71.6).

    python main.py --config=configs/moco_v2_vits.py              # with RePre, 300 epochs
    python main.py --config=configs/moco_v2_vits.py:epochs=800   # 73.4 (baseline 72.7)
    python main.py --config=configs/moco_v2_vits.py:baseline     # without RePre
    python main.py --config=configs/moco_v2_vits.py:official     # head and optimizer of MoCo v2

MoCo v2 is official on ResNet-50 only. The baseline on ViT is the DINO paper's: temperature 0.1,
momentum 0.996 to 1, queue of 65,536, weight decay 0.05, no clipping, otherwise DINO's optimizer and
a head of three layers (facebookresearch/dino, issue 34), whose widths are not given: those of
DINO's head here. ``:official`` is facebookresearch/moco: SGD, 0.03 per 256, 200 epochs. Not
measured here.
"""

from repre_jax.methods import moco_v2
from repre_jax.training import defaults


def get_config(variants: str = ""):
    config = defaults.get_config("moco_v2")
    config.method.update({"layers": 3, "hidden": 2048, "output": 256, "temperature": 0.1})
    config.method.update({"momentum": 0.996, "end_momentum": 1.0})
    config.optimizer.update({"weight_decay": 0.05, "end_weight_decay": 0.05})
    return defaults.apply_variants(config, variants, {"official": official})


def official(config):
    """MoCo v2 as published, but for the encoder."""
    config.method = moco_v2.default_config()
    config.train.update({"batch_size": 256, "epochs": 200})
    config.optimizer.update({"name": "sgd", "learning_rate": 0.03, "schedule": "moco_v2"})
    config.optimizer.update({"end_learning_rate": 0.0, "warmup_epochs": 0.0, "decay": "all"})
    config.optimizer.update({"weight_decay": 1e-4, "end_weight_decay": 1e-4})
