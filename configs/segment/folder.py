"""SETR of a pre-trained encoder on your own images and maps of classes.

    python main.py --config=configs/segment/folder.py --config.checkpoint=runs/a \\
        --config.data.path=/data/mine --config.data.classes=5 --config.data.ignore=255,

/data/mine/images/{train,val} and /data/mine/labels/{train,val} hold the same names but for the
suffix; a map has one id a pixel, in grey or with a palette, of its image's size. Other names of the
folders: data.images, data.labels. Ids that are neither classes nor ignored are refused.
"""

from repre_jax.config_files import apply_variants
from repre_jax.evaluation.segmentation.setr import defaults


def get_config(variants: str = ""):
    config = defaults.get_config()
    config.data.layout = "folder"
    config.update({"image_size": 320, "stride": 160, "base_size": (), "loss_over": "valid"})
    config.update({"steps": 4000, "train_batch_size": 16, "validate_every_steps": 1000})
    return apply_variants(config, variants.split(","), {"smoke": defaults.smoke})
