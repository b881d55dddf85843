"""DINO + RePre, ViT-B/16, ImageNet-1k, 300 epochs.

    python main.py --config=configs/dino_vitb.py            # with RePre
    python main.py --config=configs/dino_vitb.py:baseline   # without

Schedule, crops and temperatures are those of the official 300-epoch ViT-S recipe (README of
facebookresearch/dino); the last layer is normalised, as main_dino.py advises for ViT-B. RePre's
ViT-B row (79.2 linear, baseline 78.2) is of 800 epochs, which
``--config.train.epochs=800`` asks for. Not measured here.
"""

from configs import default


def get_config(variants: str = ""):
    config = default.get_config("dino")
    config.method.teacher_temperature = 0.07
    config.method.teacher_temperature_warmup_epochs = 30
    config.model.name = "vit_base"
    config.model.drop_path = 0.1
    config.optimizer.clip_per_tensor = 3.0
    return default.apply_variants(config, variants)
