"""Weighted k-NN of frozen features, as DINO evaluates (facebookresearch/dino, eval_knn.py).

    python main.py --config=configs/eval/knn.py --config.checkpoint=runs/a
    python main.py --config=configs/eval/knn.py --config.checkpoint=runs/a --config.weights=random

Seconds beyond encoding the images once. Any data set with labels, by --config.data.*.
"""

from ml_collections.config_dict import placeholder

from repre_jax.config_files import apply_variants
from repre_jax.evaluation import defaults


def get_config(variants: str = ""):
    config = defaults.get_config("knn")
    config.feature = placeholder(str)  # "pooled", "mean" (evaluation/frozen.py); None: the method's
    config.neighbours = (10, 20, 100, 200)
    config.reported_neighbours = 20  # the one on the screen and in the table
    config.temperature = 0.07
    return apply_variants(config, variants.split(","), {"smoke": smoke})


def smoke(config):
    """As it is: nothing beyond the features takes time."""
