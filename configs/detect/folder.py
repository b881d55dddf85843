"""Mask R-CNN on a pre-trained encoder, trained on your own images with boxes and masks.

    python main.py --config=configs/detect/folder.py --config.checkpoint=runs/a \
        --config.data.path=/data/mine

The folder has an annotation file in COCO's format for train and val (annotations/train.json,
train.json, train/_annotations.coco.json, ...) and images in train/ and val/ or images/; every
layout: repre_jax/data/detection/coco.py. The recipe is that of the backbone (ViTDet's for ViT, the
Swin authors' for Swin), shorter and smaller: 512 pixels, 50 epochs at a batch of 16, a jitter
that keeps objects near their size, 100 steps of warm-up.
"""

from repre_jax.config_files import apply_variants
from repre_jax.evaluation import defaults
from repre_jax.evaluation.detection import defaults as detection


def get_config(variants: str = ""):
    config = defaults.of_an_encoder("detection")
    config.update(detection.get_config(""))
    config.image_size = 512
    config.recipe.epochs = 50.0
    config.recipe.batch_size = 16
    config.recipe.scales, config.recipe.short_edges = (0.5, 1.5), ()
    config.recipe.buckets = ()
    config.recipe.padding_multiple = 0
    config.recipe.warmup_steps = 100
    return apply_variants(config, variants.split(","), {"smoke": detection.smoke})
