"""What a few labels are enough for: k-NN and logistic regression on frozen features.

    python main.py --config=configs/eval/few_label.py --config.checkpoint=runs/a
    python main.py --config=configs/eval/few_label.py --config.checkpoint=runs/a \\
        --config.budgets="('5','20')"

Every draw takes labelled examples class by class; "nearest" (one neighbour), "knn" (weighted) and
"logistic" are judged on the same draws, and so is every other checkpoint on the same data.
"""

from ml_collections.config_dict import placeholder

from repre_jax.config_files import apply_variants
from repre_jax.evaluation import defaults


def get_config(variants: str = ""):
    config = defaults.get_config("few_label")
    config.feature = placeholder(str)  # "pooled", "mean" (evaluation/frozen.py); None: the method's
    config.budgets = ("1%", "10%")  # share of each class, or a number of labels a class ("5")
    config.draws = 3
    config.neighbours = 20
    config.temperature = 0.07
    # --lambd in the README of facebookresearch/msn: L2 strength beside the sum of the losses.
    config.strength = 0.0025
    return apply_variants(config, variants.split(","), {"smoke": smoke})


def smoke(config):
    """One draw of five labels a class."""
    config.update({"budgets": ("5",), "draws": 1})
