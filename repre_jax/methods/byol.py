"""BYOL (arXiv 2006.07733): predicts the moving average's projection of the other view.

No negatives: both views pass both networks, and a predictor on the online side alone keeps the
features from collapsing.
Source of every number: google-deepmind/deepmind-research, byol/byol_experiment.py,
byol/configs/byol.py, byol/utils. Both networks start equal here; there they start apart.
"""

import flax.linen as nn
import jax.numpy as jnp
from ml_collections import ConfigDict

from repre_jax.data.recipes import BYOL, ViewRecipe
from repre_jax.losses.negative_cosine import negative_cosine
from repre_jax.methods.method import (
    FROZEN_PATCH_EMBEDDING,
    Method,
    Target,
    check_heads,
    whole_views,
    with_overrides,
)
from repre_jax.models.heads import ProjectionMLP, ProjectorPredictor, moco_v3_projector
from repre_jax.models.layers import haiku_default_kernel
from repre_jax.ranges import AT_LEAST_ONE, SHARE
from repre_jax.schedules import Clock, cosine

VIEWS = ViewRecipe(crop_scale=(0.08, 1.0), interpolation="bicubic", photometric=BYOL)
RANGES = {
    "hidden": AT_LEAST_ONE,
    "output": AT_LEAST_ONE,
    "momentum": SHARE,
}
SMOKE = {"hidden": 64, "output": 32}


def default_config() -> ConfigDict:
    """``config.method``: the defaults of the official 300-epoch recipe."""
    return ConfigDict(
        {
            "name": "byol",
            "heads": "byol",  # the paper's, or "moco_v3": three layers and two, as for ViT there
            "hidden": 4096,
            "output": 256,
            "momentum": 0.99,  # of the target network at step 0; cosine to 1
            "freeze_patch_embedding": False,
        }
    )


def byol_mlp(hidden: int, output: int, dtype: jnp.dtype) -> ProjectionMLP:
    """Projector and predictor alike; Haiku's initialisation, a truncated normal and zeros."""
    return ProjectionMLP(
        features=(hidden, output),
        biases=(True, False),
        kernel_init=haiku_default_kernel,
        bias_init=lambda fan_in: nn.initializers.zeros,
        dtype=dtype,
    )


def build(config: ConfigDict, views: ConfigDict, clock: Clock, encoder: nn.Module) -> Method:
    """BYOL for a run of this length; see ``default_config`` for ``config``."""
    dtype = encoder.dtype
    sizes = (config.hidden, config.output, dtype)
    if check_heads(config, "byol", "moco_v3") == "byol":
        heads = ProjectorPredictor(byol_mlp(*sizes), byol_mlp(*sizes))
    else:
        heads = ProjectorPredictor(moco_v3_projector(3, *sizes), moco_v3_projector(2, *sizes))

    def squared_distance(prediction, projection):
        return 2 + 2 * negative_cosine(prediction, projection)

    def loss(online, projections, memory, step):
        predictions = online.predictions
        first = squared_distance(predictions[:, 0], projections[:, 1])
        second = squared_distance(predictions[:, 1], projections[:, 0])
        return first + second, {}

    return Method(
        views=with_overrides(VIEWS, views),
        encode=whole_views(0, 1),
        heads=heads,
        loss=loss,
        loss_name="contrast",
        evaluated="online",
        target=Target(
            heads=("projector",),
            momentum=cosine(config.momentum, 1.0, total_steps=clock.total_steps),
        ),
        frozen=(FROZEN_PATCH_EMBEDDING,) if config.freeze_patch_embedding else (),
    )
