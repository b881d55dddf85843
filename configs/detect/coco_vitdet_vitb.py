"""Mask R-CNN on a pre-trained ViT-B, trained on COCO 2017 as ViTDet is.

    python main.py --config=configs/detect/coco_vitdet_vitb.py --config.checkpoint=runs/a \
        --config.data.path=/data/coco
    python main.py --config=configs/detect/coco_vitdet_vitb.py --config.checkpoint=runs/a \
        --config.data.path=/data/coco --config.weights=random
    python main.py --config=configs/detect/coco_vitdet_vitb.py --config.checkpoint=runs/a \
        --config.data.path=/data/coco --config.recipe.train_encoder=False

The second one trains from scratch, the third leaves the encoder as it is. The folder is COCO's own:
annotations/instances_{train,val}2017.json, train2017/, val2017/. ViT-L and ViT-H get their own
numbers. 100 epochs at a batch of 64 on 64 GPUs in the paper (arXiv 2203.16527), which reports 51.6
box AP and 45.9 mask AP after MAE's pre-training on ImageNet-1k; not run here. Every number and its
source: repre_jax/evaluation/detection/recipes.py.
"""

from repre_jax.config_files import apply_variants
from repre_jax.evaluation import defaults
from repre_jax.evaluation.detection import defaults as detection


def get_config(variants: str = ""):
    config = defaults.of_an_encoder("detection")
    config.update(detection.get_config("vitdet"))
    return apply_variants(config, variants.split(","), {"smoke": detection.smoke})
