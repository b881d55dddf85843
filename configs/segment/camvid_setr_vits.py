"""SETR of a pre-trained encoder on CamVid, for one accelerator; ``:cpu`` for a nano encoder.

    python main.py --config=configs/segment/camvid_setr_vits.py --config.checkpoint=runs/a \\
        --config.data.path=/data/camvid
    python main.py --config=configs/segment/camvid_setr_vits.py:cpu --config.checkpoint=runs/a \\
        --config.data.path=/data/camvid
    python main.py --config=configs/segment/camvid_setr_vits.py:cpu,frozen ...
    python main.py --config=configs/segment/camvid_setr_vits.py:cpu --config.weights=random ...

367 training and 101 validation images of 360 x 480, which are much alike: where a class is most
often, and which colour it has, are worth a good part of a score, so compare with
``--config.weights=random``. Departures from SETR's Cityscapes recipe, for the size of the set:
images at their own size, crops of 320, short training, loss over the pixels that have a class.
"""

from repre_jax.config_files import apply_variants
from repre_jax.evaluation.segmentation.setr import defaults


def get_config(variants: str = ""):
    config = defaults.get_config()
    config.data.layout = "camvid"
    config.update({"image_size": 320, "stride": 160, "base_size": (), "loss_over": "valid"})
    config.update({"steps": 4000, "train_batch_size": 16, "validate_every_steps": 1000})
    known = {"cpu": cpu, "frozen": frozen, "smoke": defaults.smoke}
    return apply_variants(config, variants.split(","), known)


def cpu(config):
    """SETR-Naive on smaller crops, ten epochs."""
    config.update({"head": "naive", "image_size": 192, "stride": (168, 144), "steps": 460})
    config.update({"train_batch_size": 8, "validate_every_steps": 0, "log_every_steps": 10})
    config.save_every_steps = 100


def frozen(config):
    """The head alone is trained."""
    config.frozen = True
