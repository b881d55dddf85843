"""MoCo v3 (arXiv 2104.02057): contrastive learning of vision transformers without a queue.

Both views go through both networks; the keys of the other examples of the batch are the negatives;
the patch embedding stays at its random initialisation.
Source of every number: facebookresearch/moco-v3, main_moco.py, moco/builder.py, vits.py.
"""

import flax.linen as nn
from ml_collections import ConfigDict

from repre_jax.data.recipes import ViewRecipe
from repre_jax.losses.contrastive import in_batch_info_nce
from repre_jax.methods.method import (
    FROZEN_PATCH_EMBEDDING,
    Method,
    Target,
    whole_views,
    with_overrides,
)
from repre_jax.models.heads import ProjectorPredictor, moco_v3_projector
from repre_jax.ranges import AT_LEAST_ONE, POSITIVE, SHARE
from repre_jax.schedules import Clock, cosine

VIEWS = ViewRecipe(crop_scale=(0.08, 1.0), interpolation="bilinear")
RANGES = {
    "hidden": AT_LEAST_ONE,
    "output": AT_LEAST_ONE,
    "temperature": POSITIVE,
    "momentum": SHARE,
    "end_momentum": SHARE,
}
SMOKE = {"hidden": 64, "output": 32}


def default_config() -> ConfigDict:
    """``config.method``: the defaults of the official ViT recipe."""
    return ConfigDict(
        {
            "name": "moco_v3",
            "hidden": 4096,
            "output": 256,
            "temperature": 0.2,
            "momentum": 0.99,  # of the target network at step 0 (--moco-m)
            # At the last step, by a cosine (--moco-m-cos); without that flag, that of step 0.
            "end_momentum": 1.0,
            "freeze_patch_embedding": True,
        }
    )


def build(config: ConfigDict, views: ConfigDict, clock: Clock, encoder: nn.Module) -> Method:
    """MoCo v3 for a run of this length; see ``default_config`` for ``config``."""
    dtype = encoder.dtype
    momentum = cosine(config.momentum, config.end_momentum, total_steps=clock.total_steps)
    sizes = (config.hidden, config.output, dtype)
    heads = ProjectorPredictor(moco_v3_projector(3, *sizes), moco_v3_projector(2, *sizes))

    def loss(online, keys, memory, step):
        queries = online.predictions
        # Symmetric loss scaled by 2 tau (builder.py, contrastive_loss).
        scale = 2 * config.temperature
        first = in_batch_info_nce(queries[:, 0], keys[:, 1], temperature=config.temperature)
        second = in_batch_info_nce(queries[:, 1], keys[:, 0], temperature=config.temperature)
        return scale * (first + second), {}

    return Method(
        views=with_overrides(VIEWS, views),
        encode=whole_views(0, 1),
        heads=heads,
        loss=loss,
        loss_name="contrast",
        evaluated="online",
        # The official code averages at the start of step t with momentum(t). The end of the step
        # before, with its successor's momentum, is the same recurrence.
        target=Target(heads=("projector",), momentum=lambda step: momentum(step + 1)),
        frozen=(FROZEN_PATCH_EMBEDDING,) if config.freeze_patch_embedding else (),
    )
