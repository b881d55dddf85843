"""SimCLR (arXiv 2002.05709, 2006.10029): the two views of an image against all others of the batch.

One network, no moving average, gradient through both sides of every pair.
Source of every number: google-research/simclr, tf2/run.py, tf2/objective.py, tf2/model.py,
data_util.py.
"""

import flax.linen as nn
import jax
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from repre_jax.data.recipes import SIMCLR, ViewRecipe
from repre_jax.losses.contrastive import nt_xent
from repre_jax.methods.method import (
    FROZEN_PATCH_EMBEDDING,
    Method,
    check_heads,
    whole_views,
    with_overrides,
)
from repre_jax.models.heads import ProjectionMLP, moco_v3_projector
from repre_jax.ranges import AT_LEAST_ONE, POSITIVE
from repre_jax.schedules import Clock

VIEWS = ViewRecipe(
    crop_scale=(0.08, 1.0),
    interpolation="bicubic",
    photometric=SIMCLR,
    jitter=(0.8, 0.8, 0.8, 0.2),
    blur_probability=(0.5, 0.5),
    solarise_probability=(0.0, 0.0),
)
RANGES = {
    "layers": AT_LEAST_ONE,
    "hidden": AT_LEAST_ONE,
    "output": AT_LEAST_ONE,
    "temperature": POSITIVE,
}
SMOKE = {"hidden": 64, "output": 32}


def default_config() -> ConfigDict:
    """``config.method``: the defaults of tf2/run.py."""
    return ConfigDict(
        {
            "name": "simclr",
            "heads": "simclr",  # the paper's, or "moco_v3": the projector that ViT has there
            "layers": 3,  # of the projector; 2 in the first version
            "hidden": placeholder(int),  # of the projector; None: the encoder's width
            "output": 128,
            "temperature": 0.1,
            "freeze_patch_embedding": False,
        }
    )


class SimCLRHeads(nn.Module):
    """The projector, on both views at once: its BatchNorm sees 2B rows."""

    projector: nn.Module

    def __call__(self, pooled: jax.Array, train: bool) -> jax.Array:
        """[B, V, D] -> [B, V, output]."""
        batch, views, width = pooled.shape
        # Rows of one example stay neighbours, so that a batch split over devices stays split.
        return self.projector(pooled.reshape(-1, width), train).reshape(batch, views, -1)


def build(config: ConfigDict, views: ConfigDict, clock: Clock, encoder: nn.Module) -> Method:
    """SimCLR for a run of any length; see ``default_config`` for ``config``."""
    dtype = encoder.dtype
    if check_heads(config, "simclr", "moco_v3") == "simclr":
        projector = ProjectionMLP(
            features=(config.hidden,) * (config.layers - 1) + (config.output,),
            biases=(False,) * config.layers,
            output_norm="scale",
            kernel_init=nn.initializers.normal(0.01),
            dtype=dtype,
        )
    else:
        projector = moco_v3_projector(config.layers, config.hidden, config.output, dtype)

    def loss(projections, target, memory, step):
        first, second = projections[:, 0], projections[:, 1]
        return nt_xent(first, second, temperature=config.temperature), {}

    return Method(
        views=with_overrides(VIEWS, views),
        encode=whole_views(0, 1),
        heads=SimCLRHeads(projector),
        loss=loss,
        loss_name="contrast",
        evaluated="online",
        frozen=(FROZEN_PATCH_EMBEDDING,) if config.freeze_patch_embedding else (),
    )
