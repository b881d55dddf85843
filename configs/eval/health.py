"""Health of a checkpoint's features as one JSON; needs no labels, uses them for retrieval.

    python main.py --config=configs/eval/health.py --config.checkpoint=runs/a

Feature std, effective rank (RankMe), alignment and uniformity (Wang and Isola), spectra of every
block, recall and mean average precision of retrieval.
"""

from ml_collections.config_dict import placeholder

from repre_jax.config_files import apply_variants
from repre_jax.evaluation import defaults


def get_config(variants: str = ""):
    config = defaults.get_config("health")
    config.feature = placeholder(str)  # "pooled", "mean" (evaluation/frozen.py); None: the method's
    config.images = 4096  # of the validation set, at most
    config.spectrum_values = 32  # largest singular values to keep of every block
    return apply_variants(config, variants.split(","), {"smoke": smoke})


def smoke(config):
    """Of a few images, once all have been encoded."""
    config.images = 64
