"""SETR-PUP of a pre-trained ViT-S/16 on Cityscapes, 40,000 steps.

    python main.py --config=configs/segment/cityscapes_setr_vits.py --config.checkpoint=runs/a \\
        --config.data.path=/data/cityscapes
    python main.py --config=configs/segment/cityscapes_setr_vits.py:multi_scale ...
    python main.py --config=configs/segment/cityscapes_setr_vits.py --config.weights=random ...

RePre (table 3) reports 72.96 % mean IoU for DINO's ViT-S and 73.40 % with RePre, "training config
as original SETR": it names neither the head nor the length, so that these numbers can be compared
with nothing else. Variants ``:naive`` and ``:mla``; ``:80k`` is twice as long. Not run here.
"""

from repre_jax.config_files import apply_variants
from repre_jax.evaluation.segmentation.setr import defaults


def get_config(variants: str = ""):
    known = {"naive": naive, "mla": mla, "80k": longer, "multi_scale": multi_scale}
    known["smoke"] = defaults.smoke
    return apply_variants(defaults.get_config(), variants.split(","), known)


def naive(config):
    """One convolution and one upsampling."""
    config.head = "naive"


def mla(config):
    """Maps of four blocks, summed from the last to the first."""
    config.head = "mla"


def longer(config):
    """The longer of the two schedules."""
    config.steps = 80_000


def multi_scale(config):
    """Six scales, each mirrored, too, in the last validation (configs/SETR/*_MS.py)."""
    config.update({"scales": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75), "flip": True})
