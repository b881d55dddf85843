"""MoBY (arXiv 2105.04553): MoCo v2's queue with BYOL's asymmetry, for Swin transformers.

Both views pass both networks; each direction has a queue of its own; drop path acts in the online
network alone.
Source of every number: SwinTransformer/Transformer-SSL, models/moby.py, moby_main.py,
configs/moby_swin_tiny.yaml. Its "NORM_BEFORE_MLP: bn" reaches no code there, hence none here.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from repre_jax.data.recipes import ViewRecipe
from repre_jax.losses.contrastive import queue_info_nce
from repre_jax.methods.method import (
    EvaluationDefaults,
    Memory,
    Method,
    Target,
    whole_views,
    with_overrides,
)
from repre_jax.methods.queue import advance, enqueue, random_keys, remarks
from repre_jax.models.heads import ProjectionMLP, ProjectorPredictor
from repre_jax.ranges import AT_LEAST_ONE, POSITIVE, SHARE
from repre_jax.schedules import Clock, cosine

VIEWS = ViewRecipe(crop_scale=(0.08, 1.0), interpolation="bilinear")
RANGES = {
    "hidden": AT_LEAST_ONE,
    "output": AT_LEAST_ONE,
    "temperature": POSITIVE,
    "queue": AT_LEAST_ONE,
    "momentum": SHARE,
}
SMOKE = {"hidden": 64, "output": 32, "queue": 64}


def default_config() -> ConfigDict:
    """``config.method``: the defaults of the official recipe."""
    return ConfigDict(
        {
            "name": "moby",
            "hidden": 4096,
            "output": 256,
            "temperature": 0.2,
            "queue": 4096,  # keys of each view
            "momentum": 0.99,  # of the target network at step 0; cosine to 1
        }
    )


def build(config: ConfigDict, views: ConfigDict, clock: Clock, encoder: nn.Module) -> Method:
    """MoBY for a run of this length; see ``default_config`` for ``config``."""
    dtype = encoder.dtype
    momentum = cosine(config.momentum, 1.0, total_steps=clock.total_steps)

    def two_layers():
        features = (config.hidden, config.output)
        return ProjectionMLP(features=features, biases=(True, True), dtype=dtype)

    def loss(online, keys, memory, step):
        def direction(view, other):
            return queue_info_nce(
                online.predictions[:, view],
                keys[:, other],
                memory[f"queue_{other + 1}"],
                temperature=config.temperature,
            )

        return direction(0, 1) + direction(1, 0), {}

    def init_memory(key):
        first, second = jax.random.split(key)
        return {
            "queue_1": random_keys(first, config.queue, config.output),
            "queue_2": random_keys(second, config.queue, config.output),
            "pointer": jnp.zeros((), jnp.int32),
        }

    def update_memory(memory, keys):
        pointer = memory["pointer"]
        return {
            "queue_1": enqueue(memory["queue_1"], keys[:, 0], pointer),
            "queue_2": enqueue(memory["queue_2"], keys[:, 1], pointer),
            "pointer": advance(pointer, keys.shape[0], config.queue),
        }

    return Method(
        views=with_overrides(VIEWS, views),
        encode=whole_views(0, 1),
        heads=ProjectorPredictor(two_layers(), two_layers()),
        loss=loss,
        loss_name="contrast",
        evaluated="online",
        evaluation=EvaluationDefaults(linear="moby"),
        # Averaged at the start of the official step: see moco_v3.py.
        target=Target(heads=("projector",), momentum=lambda step: momentum(step + 1)),
        memory=Memory(init_memory, update_memory),
        remarks=functools.partial(remarks, config.queue),
    )
