"""Schedules: functions of the step (0-based), traceable, float32.

The warm-up + cosine forms of the papers differ in ways that change the numbers, so each is written
out and named after the recipe whose form it is.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from repre_jax.errors import UserError

Schedule = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Clock:
    """How long a run is: what turns epochs into steps."""

    steps_per_epoch: int
    total_steps: int

    def __post_init__(self):
        """Raises UserError when the steps cannot be counted in int32, as a train state does."""
        if self.total_steps >= 2**31:
            raise UserError(f"A run of {self.total_steps:.3g} steps is too long: lower its epochs.")

    def steps(self, epochs: float) -> int:
        """Steps in so many epochs."""
        return round(epochs * self.steps_per_epoch)

    def epoch(self, step: jax.Array) -> jax.Array:
        """int32, whole epochs before ``step``."""
        return _whole_epochs(step, self.steps_per_epoch)


@dataclasses.dataclass(frozen=True)
class WarmUp:
    """What the learning-rate schedules are made of.

    Attributes:
      steps: of warm-up, may be 0.
      start: learning rate at step 0 of the warm-up.
      end: learning rate at the end of the run.
    """

    steps: int = 0
    start: float = 0.0
    end: float = 0.0


def warmup_cosine_moco_v3(peak: float, clock: Clock, warm_up: WarmUp) -> Schedule:
    """start + (peak - start) t / w, then half a cosine of (t - w) / (T - w) down to ``end``.

    Source: facebookresearch/moco-v3, main_moco.py, adjust_learning_rate; its clock is the
    fractional epoch, which is the step over the steps of an epoch. BYOL (deepmind-research,
    byol/utils/schedules.py) and SimCLR (google-research/simclr, WarmUpAndCosineDecay) write the
    same. Official runs start and end at 0.
    """

    def schedule(step):
        step = jnp.asarray(step, jnp.float32)
        progress = (step - warm_up.steps) / max(clock.total_steps - warm_up.steps, 1)
        rising = _rise(peak, step / max(warm_up.steps, 1), warm_up)
        return jnp.where(step < warm_up.steps, rising, _fall(peak, progress, warm_up))

    return schedule


def warmup_cosine_dino(peak: float, clock: Clock, warm_up: WarmUp) -> Schedule:
    """Warm-up that reaches ``peak`` on its last step, then a cosine that starts at ``peak`` again.

    Source: facebookresearch/dino, utils.py, cosine_scheduler: linspace(start, peak, w) with both
    ends included, then end + (peak - end) / 2 * (1 + cos(pi i / (T - w))) with i from 0.
    """

    def schedule(step):
        step = jnp.asarray(step, jnp.float32)
        progress = (step - warm_up.steps) / max(clock.total_steps - warm_up.steps, 1)
        rising = _rise(peak, step / max(warm_up.steps - 1, 1), warm_up)
        return jnp.where(step < warm_up.steps, rising, _fall(peak, progress, warm_up))

    return schedule


def warmup_cosine_moby(peak: float, clock: Clock, warm_up: WarmUp) -> Schedule:
    """Warm-up, then a cosine whose clock counts the warm-up too: a small jump at its end.

    Source: SwinTransformer/Transformer-SSL, lr_scheduler.py (timm's CosineLRScheduler) and
    moby_main.py, which moves the schedule on after the optimizer: step t runs at the learning rate
    of t - 1, the first two steps at that of 0.
    """

    def schedule(step):
        step = jnp.maximum(jnp.asarray(step, jnp.float32) - 1, 0)
        rising = _rise(peak, step / max(warm_up.steps, 1), warm_up)
        falling = _fall(peak, step / clock.total_steps, warm_up)
        return jnp.where(step < warm_up.steps, rising, falling)

    return schedule


def warmup_cosine_deit(peak: float, clock: Clock, warm_up: WarmUp) -> Schedule:
    """MoBY's form with epochs for steps: constant within an epoch, the first two at ``start``.

    Source: facebookresearch/deit, main.py (``lr_scheduler.step(epoch)`` behind the epoch) on timm's
    CosineLRScheduler.
    """
    per_epoch = clock.steps_per_epoch
    epochs = Clock(1, clock.total_steps / per_epoch)
    by_epoch = warmup_cosine_moby(
        peak, epochs, dataclasses.replace(warm_up, steps=warm_up.steps / per_epoch)
    )
    return lambda step: by_epoch(clock.epoch(step))


def warmup_cosine_moco_v2(peak: float, clock: Clock, warm_up: WarmUp) -> Schedule:
    """A cosine that moves once an epoch, floor(epoch) / epochs; linear warm-up by step before it.

    Source: facebookresearch/moco, main_moco.py, and facebookresearch/simsiam, main_simsiam.py,
    adjust_learning_rate. Official runs have no warm-up and end at 0.
    """
    epochs = clock.total_steps / clock.steps_per_epoch

    def schedule(step):
        epoch = clock.epoch(step)
        step = jnp.asarray(step, jnp.float32)
        rising = _rise(peak, step / max(warm_up.steps, 1), warm_up)
        return jnp.where(step < warm_up.steps, rising, _fall(peak, epoch / epochs, warm_up))

    return schedule


def warmup_then_drops(
    peak: float, *, warmup_steps: int, start_share: float, drops: tuple[int, ...], factor: float
) -> Schedule:
    """A linear warm-up from a share of the rate, and drops by a factor: how detectors are trained.

    Sources: fvcore, common/param_scheduler.py, LinearParamScheduler in detectron2's
    WarmupParamScheduler; mmdetection's step policy with warmup="linear" is the same.

    Args:
      peak: the rate.
      warmup_steps: after which the whole rate is reached.
      start_share: of the rate, at step 0.
      drops: steps from which on the rate is ``factor`` times what it was before.
      factor: below 1.
    """

    def schedule(step):
        step = jnp.asarray(step, jnp.float32)
        risen = jnp.clip(step / max(warmup_steps, 1), 0, 1) if warmup_steps else 1.0
        dropped = sum((step >= drop).astype(jnp.float32) for drop in drops)
        return peak * (start_share + (1 - start_share) * risen) * factor**dropped

    return schedule


def _whole_epochs(step: jax.Array, steps_per_epoch: int) -> jax.Array:
    """In integers: XLA turns a division by a constant into a product with its reciprocal, so the
    floor of step / 41 would be an epoch short at every other epoch's first step."""
    return jnp.asarray(step).astype(jnp.int32) // steps_per_epoch


def _rise(peak, share, warm_up):
    return warm_up.start + (peak - warm_up.start) * share


def _fall(peak, progress, warm_up):
    cosine = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(progress, 0, 1)))
    return warm_up.end + (peak - warm_up.end) * cosine


LEARNING_RATE_SCHEDULES = {
    "deit": warmup_cosine_deit,
    "dino": warmup_cosine_dino,
    "moby": warmup_cosine_moby,
    "moco_v2": warmup_cosine_moco_v2,
    "moco_v3": warmup_cosine_moco_v3,
}


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
        epoch = _whole_epochs(step, steps_per_epoch)
        share = jnp.clip(epoch / max(epochs - 1, 1), 0, 1)
        return jnp.where(epoch < epochs, start + (end - start) * share, end)

    return schedule
