"""DINO + RePre on the handwritten digits that scikit-learn carries: minutes on two CPU cores.

    make quickstart
    python main.py --config=configs/quickstart.py             # the same
    python main.py --config=configs/quickstart.py:baseline    # without RePre

1,442 images for training and 355 for validation, 8 x 8 pixels shown at 32 x 32. Digits are not
mirrored, turned grey or solarised: a 6 must not become another sign, and there is no colour.
"""

from repre_jax.training import defaults


def get_config(variants: str = ""):
    config = defaults.get_config("dino")
    config.method.update({"prototypes": 64, "hidden": 256, "bottleneck": 64})
    # With a teacher at 0.04 from the start all digits drifted to even prototypes.
    config.method.update({"momentum": 0.99, "teacher_temperature_start": 0.02})
    config.method.update({"teacher_temperature": 0.04, "teacher_temperature_warmup_epochs": 45})
    config.model.update({"name": "vit_nano", "patch_size": 16, "image_size": 32})
    config.model.initialisation = "moco_v3"
    config.repre.decoder.update({"layers": 1, "width": 32})
    config.views.update(
        {
            "crop_scale": (0.7, 1.0),
            "local_crops": 0,
            "flip_probability": 0.0,
            "jitter": (0.4, 0.4, 0.0, 0.0),
            "grey_probability": 0.0,
            "blur_probability": (0.5, 0.1),
            "solarise_probability": (0.0, 0.0),
        }
    )
    config.data.source = "digits"
    config.train.update({"batch_size": 64, "epochs": 60})
    config.optimizer.learning_rate = 4e-3
    config.optimizer.end_learning_rate = 1e-5
    config.optimizer.warmup_epochs = 4.0
    config.optimizer.end_weight_decay = 0.04
    config.checkpoint.every_steps = 400
    config.evaluation.update({"knn_every_epochs": 20, "few_label": True})
    config.logging.every_steps = 20
    return defaults.apply_variants(config, variants)
