"""MoCo v2 (arXiv 1911.05722, 2003.04297): one view queries, the other is key, a queue remembers.

View 1 passes the online network, view 2 the moving average; the negatives are the keys of earlier
batches. The official code shuffles keys over devices because of BatchNorm in the encoder; vision
transformers have none, and that of a convolutional stem sees the whole batch here.
Source of every number: facebookresearch/moco, main_moco.py, moco/builder.py, moco/loader.py.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from repre_jax.data.recipes import ViewRecipe
from repre_jax.losses.contrastive import queue_info_nce
from repre_jax.methods.method import Memory, Method, Target, whole_views, with_overrides
from repre_jax.methods.queue import advance, enqueue, random_keys, remarks
from repre_jax.models.heads import ProjectionMLP, ProjectorPredictor
from repre_jax.ranges import AT_LEAST_ONE, POSITIVE, SHARE
from repre_jax.schedules import Clock, cosine

VIEWS = ViewRecipe(
    crop_scale=(0.2, 1.0),
    interpolation="bilinear",
    jitter=(0.4, 0.4, 0.4, 0.1),
    blur_probability=(0.5, 0.5),
    solarise_probability=(0.0, 0.0),
)
RANGES = {
    "layers": AT_LEAST_ONE,
    "hidden": AT_LEAST_ONE,
    "output": AT_LEAST_ONE,
    "temperature": POSITIVE,
    "queue": AT_LEAST_ONE,
    "momentum": SHARE,
    "end_momentum": SHARE,
}
SMOKE = {"hidden": 64, "output": 32, "queue": 64}


def default_config() -> ConfigDict:
    """``config.method``: the defaults of main_moco.py with --mlp."""
    return ConfigDict(
        {
            "name": "moco_v2",
            "layers": 2,  # of the projector
            "hidden": placeholder(int),  # of the projector; None: the encoder's width
            "output": 128,
            "temperature": 0.2,
            "queue": 65536,  # keys
            "momentum": 0.999,  # of the key network at step 0
            "end_momentum": 0.999,  # at the last step, by a cosine
        }
    )


def build(config: ConfigDict, views: ConfigDict, clock: Clock, encoder: nn.Module) -> Method:
    """MoCo v2 for a run of this length; see ``default_config`` for ``config``."""
    dtype = encoder.dtype
    momentum = cosine(config.momentum, config.end_momentum, total_steps=clock.total_steps)
    projector = ProjectionMLP(
        features=(config.hidden,) * (config.layers - 1) + (config.output,),
        biases=(True,) * config.layers,
        hidden_norm=False,
        dtype=dtype,
    )

    def loss(online, keys, memory, step):
        per_example = queue_info_nce(
            online.projections[:, 0],
            keys[:, 0],
            memory["queue"],
            temperature=config.temperature,
        )
        return per_example, {}

    def init_memory(key):
        return {
            "queue": random_keys(key, config.queue, config.output),
            "pointer": jnp.zeros((), jnp.int32),
        }

    def update_memory(memory, keys):
        queue, pointer = memory["queue"], memory["pointer"]
        return {
            "queue": enqueue(queue, keys[:, 0], pointer),
            "pointer": advance(pointer, keys.shape[0], config.queue),
        }

    return Method(
        views=with_overrides(VIEWS, views),
        encode=whole_views(0),
        heads=ProjectorPredictor(projector),
        loss=loss,
        loss_name="contrast",
        evaluated="online",
        # Averaged at the start of the official step: see moco_v3.py.
        target=Target(heads=("projector",), momentum=lambda step: momentum(step + 1), views=(1,)),
        memory=Memory(init_memory, update_memory),
        remarks=functools.partial(remarks, config.queue),
    )
