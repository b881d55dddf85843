"""Keys that the training of a detector has beside those that all evaluations share."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from repre_jax.evaluation.detection.recipes import RECIPES


def get_config(protocol: str) -> ConfigDict:
    """The keys, for a protocol of ``RECIPES``, or "" for that of the backbone."""
    config = ConfigDict()
    config.protocol = protocol
    config.image_size = 1024  # pixels, of the square or the longer side of canvases
    config.batch_size = 16  # images at a time in validation, over all devices
    # Replaces numbers of the protocol; None keeps the paper's. Meaning and units of the fields:
    # DetectionRecipe in repre_jax/evaluation/detection/recipes.py.
    numbers = vars(RECIPES["vitdet"])
    config.recipe = ConfigDict({name: placeholder(type(x)) for name, x in numbers.items()})
    config.data = ConfigDict({"path": "", "workers": 8})  # 0: threads of this process
    config.validate_every_epochs = 10.0  # 0: after the last only
    config.save_every_steps = 500
    config.keep_checkpoints = 1  # newest ones
    config.log_every_steps = 20
    return config


def smoke(config: ConfigDict) -> None:
    """A few steps of small images through thin heads."""
    config.image_size = 128
    config.batch_size = 4
    config.recipe.update(
        {
            "batch_size": 4,
            "epochs": 0.2,
            "warmup_steps": 1,
            "short_edges": (),
            "buckets": (),
            "objects": 20,
            "pyramid_width": 32,
            "box_convolutions": 1,
            "box_units": 64,
            "mask_convolutions": 1,
            "anchors_sampled": 64,
            "before_suppression": (100, 50),
            "proposals": 50,
            "regions_sampled": 32,
        }
    )
    config.data.workers = 0
    config.validate_every_epochs = 0.0
    config.save_every_steps = 2
    config.log_every_steps = 1
