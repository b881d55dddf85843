"""Mask R-CNN with FPN on a pre-trained Swin, trained on COCO 2017 for 12 epochs (RePre, table 2).

    python main.py --config=configs/detect/coco_maskrcnn_swint_1x.py --config.checkpoint=runs/a \
        --config.data.path=/data/coco
    python main.py --config=configs/detect/coco_maskrcnn_swint_1x.py:single_scale \
        --config.checkpoint=runs/a --config.data.path=/data/coco

MoBY's numbers, 43.6 box AP and 39.6 mask AP after 300 epochs on ImageNet-1k (supervised 43.7 and
39.8), are of several sizes and crops; RePre reports 1.2 and 0.7 more and writes of one size, which
is the variant ``single_scale``. 16 images a step on 8 GPUs there; not run here. A batch's images
lie in 800 x 1344 or in 1344 x 800 pixels, upright ones apart from flat ones: two compiled steps.
Every number and its source: repre_jax/evaluation/detection/recipes.py.
"""

from repre_jax.config_files import apply_variants
from repre_jax.evaluation import defaults
from repre_jax.evaluation.detection import defaults as detection


def get_config(variants: str = ""):
    config = defaults.of_an_encoder("detection")
    config.update(detection.get_config("swin_1x"))
    config.image_size = 1344
    config.validate_every_epochs = 1.0
    known = {"single_scale": single_scale, "smoke": detection.smoke}
    return apply_variants(config, variants.split(","), known)


def single_scale(config):
    """Every image with a short edge of 800 pixels, whole."""
    config.recipe.update({"short_edges": (800,), "crop": False})
