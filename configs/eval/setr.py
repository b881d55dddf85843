"""SETR with the numbers of its Cityscapes configs; ``segment/`` has those for a set and a budget.

    python main.py --config=configs/eval/setr.py --config.checkpoint=runs/a \\
        --config.data.path=/data/cityscapes
"""

from repre_jax.config_files import apply_variants
from repre_jax.evaluation.segmentation.setr import defaults


def get_config(variants: str = ""):
    return apply_variants(defaults.get_config(), variants.split(","), {"smoke": defaults.smoke})
