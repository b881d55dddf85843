"""Whole schedules against tables of the official PyTorch code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.cases import (
    DINO_CASES,
    MOCO_V3_CASES,
    TABLE_EPOCHS,
    TABLE_STEPS_PER_EPOCH,
    TABLE_WARMUP_EPOCHS,
)
from golden.compare import FOLDER
from golden.finetune_cases import DEIT_TABLE
from golden.from_torch_names import with_prefix

from repre_jax import schedules
from repre_jax.evaluation.linear.protocols import LINEAR_PROTOCOLS

DINO = with_prefix(np.load(FOLDER / "dino.npz"), "table/")
MOCO_V3 = with_prefix(np.load(FOLDER / "moco_v3.npz"), "table/")
CLOCK = schedules.Clock(TABLE_STEPS_PER_EPOCH, TABLE_EPOCHS * TABLE_STEPS_PER_EPOCH)


def table(schedule: schedules.Schedule) -> np.ndarray:
    return np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(CLOCK.total_steps)))


def dino_schedules() -> dict[str, schedules.Schedule]:
    case = DINO_CASES["clip_0.3"]
    return {
        "learning_rate": schedules.warmup_cosine_dino(
            case.peak,
            CLOCK,
            schedules.WarmUp(steps=CLOCK.steps(TABLE_WARMUP_EPOCHS), end=case.end),
        ),
        "decay": schedules.cosine(case.decay, case.decay_end, total_steps=CLOCK.total_steps),
        "momentum": schedules.cosine(case.momentum, 1.0, total_steps=CLOCK.total_steps),
        "teacher_temperature": schedules.epoch_linear(
            case.teacher_temperature_start,
            case.teacher_temperature,
            epochs=case.teacher_temperature_epochs,
            steps_per_epoch=TABLE_STEPS_PER_EPOCH,
        ),
    }


def moco_v3_schedules() -> dict[str, schedules.Schedule]:
    case = MOCO_V3_CASES["warmup"]
    return {
        "learning_rate": schedules.warmup_cosine_moco_v3(
            case.peak, CLOCK, schedules.WarmUp(steps=CLOCK.steps(case.warmup_epochs))
        ),
        "momentum": schedules.cosine(case.momentum, 1.0, total_steps=CLOCK.total_steps),
    }


@pytest.mark.parametrize("name", sorted(DINO))
def test_dino_tables(name):
    np.testing.assert_allclose(table(dino_schedules()[name]), DINO[name], rtol=2e-6, atol=1e-9)


@pytest.mark.parametrize("name", sorted(MOCO_V3))
def test_moco_v3_tables(name):
    np.testing.assert_allclose(
        table(moco_v3_schedules()[name]), MOCO_V3[name], rtol=2e-6, atol=1e-9
    )


def test_deit_table():
    case, per_epoch = DEIT_TABLE, DEIT_TABLE.steps_per_epoch
    clock = schedules.Clock(per_epoch, case.epochs * per_epoch)
    warm_up = schedules.WarmUp(clock.steps(case.warmup_epochs), case.start, case.end)
    schedule = schedules.warmup_cosine_deit(case.peak, clock, warm_up)
    rates = schedule(jnp.arange(clock.total_steps))
    recorded = np.load(FOLDER / "finetune.npz")["deit/rates"]
    np.testing.assert_allclose(rates, np.repeat(recorded, per_epoch), rtol=2e-6)


@pytest.mark.parametrize("epochs", [0, 1])
def test_teacher_temperature_without_or_with_one_epoch_of_warmup(epochs):
    """linspace of no or of one value: at once the end, or one epoch at the start."""
    schedule = schedules.epoch_linear(0.04, 0.07, epochs=epochs, steps_per_epoch=7)
    values = table(schedule)
    np.testing.assert_allclose(values[: 7 * epochs], 0.04, rtol=1e-6)
    np.testing.assert_allclose(values[7 * epochs :], 0.07, rtol=1e-6)


def test_a_dino_warmup_of_one_step_has_rate_zero():
    """linspace(0, peak, 1) is [0]; the cosine then starts at the peak."""
    schedule = schedules.warmup_cosine_dino(1.0, schedules.Clock(1, 4), schedules.WarmUp(steps=1))
    np.testing.assert_allclose(table(schedule)[:2], [0, 1])


@pytest.mark.parametrize("steps_per_epoch", [36, 41, 47, 55, 61, 312])
def test_compiled_schedules_move_on_the_first_step_of_an_epoch(steps_per_epoch):
    """Float quotients fall short of whole numbers at some of these."""
    clock = schedules.Clock(steps_per_epoch, 100 * steps_per_epoch)
    steps = jnp.arange(clock.total_steps)
    by_epoch = schedules.warmup_cosine_moco_v2(1.0, clock, schedules.WarmUp())
    temperature = schedules.epoch_linear(0.0, 1.0, epochs=100, steps_per_epoch=steps_per_epoch)
    drops = LINEAR_PROTOCOLS["mocov2"].schedule_of(clock)
    deit = schedules.warmup_cosine_deit(1.0, clock, schedules.WarmUp())
    for schedule, epochs in (
        (by_epoch, np.arange(1, 100)),
        (temperature, np.arange(1, 100)),
        (drops, np.array([60, 80])),
        (deit, np.arange(2, 100)),  # its first two are alike
    ):
        values = np.asarray(jax.jit(jax.vmap(schedule))(steps))
        moved = np.flatnonzero(np.diff(values)) + 1
        np.testing.assert_array_equal(moved, epochs * steps_per_epoch)
