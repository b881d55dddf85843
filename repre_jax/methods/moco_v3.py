"""MoCo v3 (arXiv 2104.02057): contrastive learning of vision transformers without a queue.

Both views go through both networks; the keys of the other examples of the batch are the negatives;
the patch embedding stays at its random initialisation.
Source of every number: facebookresearch/moco-v3, main_moco.py, moco/builder.py, vits.py.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from repre_jax.data.recipes import ViewRecipe
from repre_jax.losses.contrastive import in_batch_info_nce
from repre_jax.methods.method import Frozen, Method, with_overrides
from repre_jax.models.projection_heads import BatchNormMLP
from repre_jax.schedules import Clock, cosine

VIEWS = ViewRecipe(crop_scale=(0.08, 1.0), interpolation="bilinear")


def default_config() -> ConfigDict:
    """``config.method``: the defaults of the official ViT recipe."""
    return ConfigDict(
        {
            "name": "moco_v3",
            "hidden": 4096,
            "output": 256,
            "temperature": 0.2,
            "momentum": 0.99,  # of the target network at step 0; cosine to 1
            "freeze_patch_embedding": True,
        }
    )


class MoCoV3Heads(nn.Module):
    """Projector of three layers (both networks), predictor of two (online only).

    Views pass one after the other, so that each has BatchNorm statistics of its own.
    """

    config: ConfigDict
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        sizes = {"hidden": self.config.hidden, "output": self.config.output, "dtype": self.dtype}
        self.projector = BatchNormMLP(layers=3, **sizes)
        self.predictor = BatchNormMLP(layers=2, **sizes)

    def __call__(self, pooled: jax.Array, train: bool) -> jax.Array:
        """[B, V, D] -> queries [B, V, output]."""
        views = [pooled[:, v] for v in range(pooled.shape[1])]
        queries = [self.predictor(self.projector(x, train), train) for x in views]
        return jnp.stack(queries, axis=1)

    def target(self, pooled: jax.Array) -> jax.Array:
        """[B, 2, D] -> keys [B, 2, output]; the target's BatchNorm also runs in training mode."""
        return jnp.stack([self.projector(pooled[:, v], True) for v in range(2)], axis=1)


def build(config: ConfigDict, views: ConfigDict, clock: Clock, dtype: jnp.dtype) -> Method:
    """MoCo v3 for a run of this length; see ``default_config`` for ``config``."""
    momentum = cosine(config.momentum, 1.0, total_steps=clock.total_steps)

    def loss(queries, keys, memory, step):
        # Symmetric loss scaled by 2 tau (builder.py, contrastive_loss).
        scale = 2 * config.temperature
        first = in_batch_info_nce(queries[:, 0], keys[:, 1], temperature=config.temperature)
        second = in_batch_info_nce(queries[:, 1], keys[:, 0], temperature=config.temperature)
        return scale * (first + second), {}

    frozen = (Frozen("encoder/patch_embed"),) if config.freeze_patch_embedding else ()
    return Method(
        views=with_overrides(VIEWS, views),
        heads=MoCoV3Heads(config, dtype),
        target_heads=("projector",),
        # The official code averages at the start of step t with momentum(t). The end of the step
        # before, with its successor's momentum, is the same recurrence.
        momentum=lambda step: momentum(step + 1),
        loss=loss,
        initial_memory={},
        update_memory=lambda memory, keys: memory,
        frozen=frozen,
        evaluated="online",
    )
