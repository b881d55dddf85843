"""Schedules: functions of the step (0-based), traceable, float32.

The warm-up + cosine forms of the papers differ in ways that change the numbers, so each is written
out and named after the recipe whose form it is.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

Schedule = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Clock:
    """How long a run is: what turns epochs into steps."""

    steps_per_epoch: int
    total_steps: int

    def steps(self, epochs: float) -> int:
        """Steps in so many epochs."""
        return round(epochs * self.steps_per_epoch)


def warmup_cosine_moco_v3(
    peak: float, *, warmup_steps: int, total_steps: int, end: float = 0.0
) -> Schedule:
    """peak * t / w during warm-up, then half a cosine of (t - w) / (T - w) down to ``end``.

    Source: facebookresearch/moco-v3, main_moco.py, adjust_learning_rate; its clock is the
    fractional epoch, which is the step over the steps of an epoch. Official runs end at 0.
    """

    def schedule(step):
        step = jnp.asarray(step, jnp.float32)
        progress = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
        cosine = end + (peak - end) * 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(progress, 0, 1)))
        return jnp.where(step < warmup_steps, peak * step / max(warmup_steps, 1), cosine)

    return schedule


def warmup_cosine_dino(
    peak: float, *, warmup_steps: int, total_steps: int, end: float = 0.0
) -> Schedule:
    """Warm-up that reaches ``peak`` on its last step, then a cosine that starts at ``peak`` again.

    Source: facebookresearch/dino, utils.py, cosine_scheduler: linspace(0, peak, w) with both ends
    included, then end + (peak - end) / 2 * (1 + cos(pi i / (T - w))) with i from 0.
    """

    def schedule(step):
        step = jnp.asarray(step, jnp.float32)
        progress = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
        cosine = end + (peak - end) * 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(progress, 0, 1)))
        return jnp.where(step < warmup_steps, peak * step / max(warmup_steps - 1, 1), cosine)

    return schedule


LEARNING_RATE_SCHEDULES = {"dino": warmup_cosine_dino, "moco_v3": warmup_cosine_moco_v3}


def cosine(start: float, end: float, *, total_steps: int) -> Schedule:
    """Half a cosine from ``start`` at step 0 to ``end`` at ``total_steps``.

    The momentum of the target network (BYOL's form 1 - (1 - m0)(1 + cos(pi t / T)) / 2 with
    end = 1) and DINO's weight decay.
    """

    def schedule(step):
        progress = jnp.clip(jnp.asarray(step, jnp.float32) / max(total_steps, 1), 0, 1)
        return end + (start - end) * 0.5 * (1 + jnp.cos(jnp.pi * progress))

    return schedule


def epoch_linear(start: float, end: float, *, epochs: int, steps_per_epoch: int) -> Schedule:
    """linspace(start, end, epochs), one value an epoch, both ends included, then ``end``.

    DINO's teacher temperature (facebookresearch/dino, main_dino.py, DINOLoss).
    """

    def schedule(step):
        epoch = jnp.floor(jnp.asarray(step, jnp.float32) / steps_per_epoch)
        share = jnp.clip(epoch / max(epochs - 1, 1), 0, 1)
        return jnp.where(epoch < epochs, start + (end - start) * share, end)

    return schedule
