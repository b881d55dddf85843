"""Three optimiser steps of SimCLR through the real train step against the official code.

Projection head over both views, loss, LARS with the learning rate inside its momentum, schedule,
running statistics, pixels in [0, 1], on a linear encoder. Recorded by golden/record_simclr.py.
"""

import jax
import numpy as np
import pytest
from golden import from_torch_names, replay
from golden.cases import BATCH
from golden.cases_contrastive import (
    LINEAR_WIDTH,
    OUTPUT,
    SIMCLR_CASES,
    SIMCLR_TEMPERATURE,
    WARMUP_TABLE,
    Case,
    features,
    global_views,
    simclr_weights,
)
from golden.compare import FOLDER, assert_close, kernels

from repre_jax.losses.contrastive import nt_xent

GOLDEN = dict(np.load(FOLDER / "simclr.npz"))

LAYERS = [(f"projector.dense_{k}", f"projector.norm_{k}") for k in range(3)]


def tree(state) -> dict:
    """Parameters, from torch's layouts."""
    return {
        "encoder": from_torch_names.linear_encoder(state),
        "heads": {"projector": from_torch_names.head(state, LAYERS)},
    }


def config_of(case: Case):
    config, images = replay.base_config(
        "simclr", steps_per_epoch=case.steps_per_epoch, epochs=case.epochs
    )
    config.model.update({"name": "golden_linear", "normalise": False})
    config.method.update(
        {
            "heads": "simclr",
            "layers": 3,
            "hidden": LINEAR_WIDTH,
            "output": OUTPUT,
            "temperature": SIMCLR_TEMPERATURE,
        }
    )
    config.optimizer.update(
        {
            "name": "lars_simclr",
            "momentum": 0.9,
            "learning_rate": case.peak * 256 / BATCH,
            "end_learning_rate": 0.0,
            "schedule": "moco_v3",
            "warmup_epochs": float(case.warmup_epochs),
            "weight_decay": case.decay,
            "end_weight_decay": case.decay,
            "decay": "matrices",
        }
    )
    return config, images


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(x, marks=() if x == "warmup" else pytest.mark.slow)
        for x in sorted(SIMCLR_CASES)
    ],
)
def run(request):
    """(recorded arrays, states and metrics of our run) of a case."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        history = replay.replay(
            *config_of(SIMCLR_CASES[request.param]),
            tree(simclr_weights()),
            lambda step: global_views("simclr", step),
            monkeypatch,
        )
    return from_torch_names.with_prefix(GOLDEN, f"{request.param}/"), history


def test_losses_and_learning_rates(run):
    golden, history = run
    np.testing.assert_allclose(
        replay.column(history, "learning_rate"), golden["learning_rate"], rtol=2e-6
    )
    # Relative: sums of 10 to 30 over logits ten times the cosines, in float32 on both sides.
    np.testing.assert_allclose(replay.column(history, "loss"), golden["loss"], rtol=1e-5)


def test_parameters(run):
    """Biases and norms, outside LARS, move by their gradients times the learning rate."""
    golden, history = run
    # Keras's kernels have our layout; from_torch_names takes torch's.
    recorded = from_torch_names.with_prefix(golden, "final/")
    official = tree({name: value.T for name, value in recorded.items()})
    ours = history[-1][0].params
    assert_close(ours, official, tolerance=1e-4)
    assert_close(kernels(ours), kernels(official), tolerance=2e-6)


def test_running_statistics(run):
    golden, history = run
    official = {
        f"norm_{k}": {name: golden[f"final/{norm}.{name}"] for name in ("mean", "var")}
        for k, (_, norm) in enumerate(LAYERS)
    }
    assert_close(history[-1][0].batch_stats, {"projector": official}, tolerance=1e-4)


def test_loss_on_random_features():
    first, second = features("simclr/first"), features("simclr/second")

    def mean_loss(first, second):
        return nt_xent(first, second, temperature=SIMCLR_TEMPERATURE).mean()

    value, gradients = jax.value_and_grad(mean_loss, argnums=(0, 1))(first, second)
    np.testing.assert_allclose(value, GOLDEN["loss/value"], atol=1e-5)
    np.testing.assert_allclose(np.concatenate(gradients), GOLDEN["loss/gradient"], atol=1e-5)


def test_whole_schedule(monkeypatch):
    learner = replay.learner_of(*config_of(WARMUP_TABLE), monkeypatch)
    steps = WARMUP_TABLE.epochs * WARMUP_TABLE.steps_per_epoch
    # Near the end, 1 + cos(x) has few digits in float32, officially as here.
    ours = replay.table(learner.learning_rate, steps)
    np.testing.assert_allclose(ours, GOLDEN["table/learning_rate"], rtol=1e-5, atol=1e-6)
