"""SimSiam (arXiv 2011.10566): BYOL without the moving average.

One network on both views; a predictor looks at the other view's projection, through which no
gradient flows.
Source of every number: facebookresearch/simsiam, main_simsiam.py, simsiam/builder.py,
simsiam/loader.py.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from repre_jax.data.recipes import ViewRecipe
from repre_jax.losses.negative_cosine import negative_cosine
from repre_jax.methods.method import (
    FROZEN_PATCH_EMBEDDING,
    Method,
    whole_views,
    with_overrides,
)
from repre_jax.models.heads import ProjectionMLP, ProjectorPredictor
from repre_jax.ranges import AT_LEAST_ONE
from repre_jax.schedules import Clock

# MoCo v2's augmentation.
VIEWS = ViewRecipe(
    crop_scale=(0.2, 1.0),
    interpolation="bilinear",
    jitter=(0.4, 0.4, 0.4, 0.1),
    blur_probability=(0.5, 0.5),
    solarise_probability=(0.0, 0.0),
)
RANGES = {
    "hidden": AT_LEAST_ONE,
    "output": AT_LEAST_ONE,
    "predictor_hidden": AT_LEAST_ONE,
}
SMOKE = {"hidden": 64, "output": 32, "predictor_hidden": 16}


def default_config() -> ConfigDict:
    """``config.method``: the defaults of main_simsiam.py."""
    return ConfigDict(
        {
            "name": "simsiam",
            "hidden": placeholder(int),  # of the projector; None: the encoder's width
            "output": 2048,
            "predictor_hidden": 512,
            "constant_predictor_rate": True,  # --fix-pred-lr
            "freeze_patch_embedding": False,
        }
    )


def build(config: ConfigDict, views: ConfigDict, clock: Clock, encoder: nn.Module) -> Method:
    """SimSiam for a run of any length; see ``default_config`` for ``config``."""
    dtype = encoder.dtype
    projector = ProjectionMLP(
        features=(config.hidden, config.hidden, config.output),
        # The official last layer has a frozen bias, which the BatchNorm after it takes away.
        biases=(False, False, False),
        output_norm="plain",
        dtype=dtype,
    )
    predictor = ProjectionMLP(
        features=(config.predictor_hidden, config.output), biases=(False, True), dtype=dtype
    )

    def loss(online, target, memory, step):
        projections = jax.lax.stop_gradient(online.projections)
        first = negative_cosine(online.predictions[:, 0], projections[:, 1])
        second = negative_cosine(online.predictions[:, 1], projections[:, 0])
        official = (first + second) / 2
        # 1 more than the official loss, which has the same gradient: never negative.
        return 1 + official, {"negative_cosine": jnp.mean(official)}

    return Method(
        views=with_overrides(VIEWS, views),
        encode=whole_views(0, 1),
        heads=ProjectorPredictor(projector, predictor),
        loss=loss,
        loss_name="contrast",
        evaluated="online",
        frozen=(FROZEN_PATCH_EMBEDDING,) if config.freeze_patch_embedding else (),
        constant_rate=("heads/predictor",) if config.constant_predictor_rate else (),
    )
