"""DINO + RePre, ViT-S/16, ImageNet-1k, 300 epochs. Table 1 of RePre: 76.7 linear (baseline 75.9).

    python main.py --config=configs/dino_vits.py            # with RePre
    python main.py --config=configs/dino_vits.py:baseline   # without

The recipe is that of the official "boosted" run (facebookresearch/dino, README): 76.0 linear and
73.3 k-NN without RePre. Hardware there: 16 GPUs of 32 GB; not measured here.
"""

from configs import default


def get_config(variants: str = ""):
    config = default.get_config("dino")
    config.method.normalise_last_layer = False
    config.method.teacher_temperature = 0.07
    config.method.teacher_temperature_warmup_epochs = 30
    config.model.drop_path = 0.1
    config.optimizer.clip_per_tensor = 3.0
    return default.apply_variants(config, variants)
