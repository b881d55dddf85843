"""DINO (arXiv 2104.14294): self-distillation with no labels.

A student sees two global and several local crops, a teacher (its moving average) only the global
ones; the student predicts the teacher's centred, sharpened distribution over K prototypes.
Source of every number: facebookresearch/dino, main_dino.py.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from repre_jax.data.recipes import ViewRecipe
from repre_jax.losses.self_distillation import self_distillation
from repre_jax.methods.method import (
    EvaluationDefaults,
    Frozen,
    Memory,
    Method,
    Target,
    whole_views,
    with_overrides,
)
from repre_jax.models.heads import PrototypeHead
from repre_jax.ranges import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE, SHARE
from repre_jax.schedules import Clock, cosine, epoch_linear

VIEWS = ViewRecipe(
    crop_scale=(0.4, 1.0),
    interpolation="bicubic",
    local_crops=8,
    local_size=96,
    local_crop_scale=(0.05, 0.4),
)
RANGES = {
    "prototypes": AT_LEAST_ONE,
    "hidden": AT_LEAST_ONE,
    "bottleneck": AT_LEAST_ONE,
    "freeze_last_layer_epochs": NOT_NEGATIVE,
    "student_temperature": POSITIVE,
    "teacher_temperature_start": POSITIVE,
    "teacher_temperature": POSITIVE,
    "teacher_temperature_warmup_epochs": NOT_NEGATIVE,
    "centre_momentum": SHARE,
    "momentum": SHARE,
}
SMOKE = {"prototypes": 64, "hidden": 64, "bottleneck": 32}


def default_config() -> ConfigDict:
    """``config.method``: the defaults of main_dino.py."""
    return ConfigDict(
        {
            "name": "dino",
            "prototypes": 65536,  # K, out_dim
            "hidden": 2048,
            "bottleneck": 256,
            "batch_norm": False,  # in the head (--use_bn_in_head)
            "normalise_last_layer": True,  # freezes the scale of the prototypes at 1
            "freeze_last_layer_epochs": 1.0,
            "student_temperature": 0.1,
            "teacher_temperature_start": 0.04,
            "teacher_temperature": 0.04,
            "teacher_temperature_warmup_epochs": 0,
            "centre_momentum": 0.9,
            "momentum": 0.996,  # of the teacher at step 0; cosine to 1
        }
    )


class DINOHeads(nn.Module):
    """The prototype head, the same for student and teacher."""

    config: ConfigDict
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.projector = PrototypeHead(
            prototypes=self.config.prototypes,
            hidden=self.config.hidden,
            bottleneck=self.config.bottleneck,
            batch_norm=self.config.batch_norm,
            dtype=self.dtype,
        )

    def __call__(self, pooled: jax.Array, train: bool) -> jax.Array:
        """[B, V, D] -> logits [B, V, K]; BatchNorm, if any, is over all views of the batch."""
        return self.projector(pooled, train)

    def target(self, pooled: jax.Array) -> jax.Array:
        """[B, 2, D] -> logits [B, 2, K]; the teacher's BatchNorm also runs in training mode."""
        return self.projector(pooled, True)


def build(config: ConfigDict, views: ConfigDict, clock: Clock, encoder: nn.Module) -> Method:
    """DINO for a run of this length; see ``default_config`` for ``config``."""
    dtype = encoder.dtype
    teacher_temperature = epoch_linear(
        config.teacher_temperature_start,
        config.teacher_temperature,
        epochs=config.teacher_temperature_warmup_epochs,
        steps_per_epoch=clock.steps_per_epoch,
    )

    def loss(student, teacher, memory, step):
        temperature = teacher_temperature(step)
        per_example, entropy = self_distillation(
            student,
            teacher,
            centre=memory["centre"],
            student_temperature=config.student_temperature,
            teacher_temperature=temperature,
        )
        return per_example, {
            "teacher_entropy": jnp.mean(entropy),
            "teacher_divergence": jnp.mean(per_example) - jnp.mean(entropy),
            "teacher_temperature": temperature,
        }

    def update_memory(memory, teacher):
        # Raw logits, both global views, the whole batch; it takes effect in the next step.
        mean = jnp.mean(teacher.astype(jnp.float32), axis=(0, 1))
        kept = config.centre_momentum
        return {"centre": kept * memory["centre"] + (1 - kept) * mean}

    frozen = []
    if config.normalise_last_layer:
        frozen.append(Frozen("heads/projector/prototypes/scale"))
    if config.freeze_last_layer_epochs > 0:
        until = clock.steps(config.freeze_last_layer_epochs)
        frozen.append(Frozen("heads/projector/prototypes", until))
    return Method(
        views=with_overrides(VIEWS, views),
        encode=whole_views(0, 1),
        heads=DINOHeads(config, dtype),
        loss=loss,
        loss_name="contrast",
        target=Target(
            heads=("projector",),
            momentum=cosine(config.momentum, 1.0, total_steps=clock.total_steps),
        ),
        memory=Memory(
            init=lambda key: {"centre": jnp.zeros(config.prototypes, jnp.float32)},
            update=update_memory,
        ),
        multi_crop=True,
        frozen=tuple(frozen),
        evaluated="target",
        evaluation=EvaluationDefaults(linear="dino"),
        remarks=lambda seen: _remarks(config, clock),
    )


def _remarks(config: ConfigDict, clock: Clock) -> list[str]:
    """Of ends that a run of this length never reaches."""
    found, last = [], (clock.total_steps - 1) // clock.steps_per_epoch
    start, end = config.teacher_temperature_start, config.teacher_temperature
    epochs = config.teacher_temperature_warmup_epochs
    if start != end and epochs == 0:
        found.append(
            f"The teacher temperature is method.teacher_temperature={end:g} from the first step: "
            f"to begin at method.teacher_temperature_start={start:g}, set "
            "method.teacher_temperature_warmup_epochs."
        )
    elif start != end and last < epochs - 1:
        reached = np.linspace(start, end, epochs)[last]
        found.append(
            f"The teacher temperature ends at {reached:.4g}, not at "
            f"method.teacher_temperature={end:g}, for its warm-up of {epochs:,} epochs is longer "
            "than the run: lower method.teacher_temperature_warmup_epochs or train longer."
        )
    until = clock.steps(config.freeze_last_layer_epochs)
    if until >= clock.total_steps:
        found.append(
            f"The last layer, the prototypes, stays frozen for {until:,} steps, and the run has "
            f"{clock.total_steps:,}: it is never trained, so lower "
            "method.freeze_last_layer_epochs or train longer."
        )
    return found
