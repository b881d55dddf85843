"""DINO + RePre on any folder of images, with sizes that fit their number and the devices.

    python main.py --config=configs/my_images.py --config.data.path=/data/my_images
    python main.py --config=configs/my_images.py --config.data.path=/data/my_images --explain

What is None here is chosen by rule (repre_jax/training/sizes.py), which ``--explain`` prints; what
is set on the command line stays: ``--config.model.name=vit_base --config.train.epochs=400``. On a
CPU a nano encoder at 64 px sees 240,000 images; with 9,469 images that is, number by number,
configs/imagenette_dino.py, which took 19 minutes (results/imagenette_cpu/dino-learned.json).
On accelerators it is ViT-S/16 at 160 px, for two million images or more; that is not measured.

Labels are not needed: where class folders are found, they serve a k-NN beside the training.
"""

from ml_collections.config_dict import placeholder

from repre_jax.training import defaults


def get_config(variants: str = ""):
    config = defaults.get_config("dino")
    config.data.update({"source": "folder", "name": "", "cache_size": 0})
    for key in ("name", "initialisation"):
        config.model[key] = placeholder(str)
    config.model.image_size = placeholder(object)  # pixels, or (height, width)
    for key in ("batch_size", "epochs"):
        config.train[key] = placeholder(int)
    for key in ("learning_rate", "end_learning_rate", "warmup_epochs", "end_weight_decay"):
        config.optimizer[key] = placeholder(float)
    for key in ("prototypes", "hidden", "bottleneck", "teacher_temperature_warmup_epochs"):
        config.method[key] = placeholder(int)
    for key in ("momentum", "teacher_temperature", "teacher_temperature_start"):
        config.method[key] = placeholder(float)
    config.checkpoint.every_steps = 200
    config.evaluation.knn_every_epochs = 5
    config.logging.every_steps = 20
    return defaults.apply_variants(config, variants)
