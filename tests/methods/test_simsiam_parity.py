"""Three optimiser steps of SimSiam through the real train step against the official code.

Heads, loss, SGD, cosine by the epoch, constant learning rate of the predictor, running statistics.
Recorded by golden/record_simsiam.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import from_torch_names, replay
from golden.cases import BATCH, STEPS, TABLE_EPOCHS, TABLE_STEPS_PER_EPOCH
from golden.cases_contrastive import (
    OUTPUT,
    PREDICTOR_HIDDEN,
    SIMSIAM_CASES,
    Case,
    features,
    global_views,
    simsiam_weights,
)
from golden.compare import FOLDER, assert_close

from repre_jax.models.heads import Projected
from repre_jax.schedules import LEARNING_RATE_SCHEDULES, Clock, WarmUp

GOLDEN = dict(np.load(FOLDER / "simsiam.npz"))

PROJECTOR = [("fc.0", "fc.1"), ("fc.3", "fc.4"), ("fc.6", "fc.7")]
PREDICTOR = [("predictor.0", "predictor.1"), ("predictor.3", None)]


def tree(state) -> dict:
    # The official bias before the last BatchNorm never moves and has no counterpart.
    state = {n.removeprefix("encoder."): x for n, x in state.items() if n != "encoder.fc.6.bias"}
    return {
        "encoder": from_torch_names.encoder(state),
        "heads": {
            "projector": from_torch_names.head(state, PROJECTOR),
            "predictor": from_torch_names.head(state, PREDICTOR),
        },
    }


def config_of(case: Case):
    config, images = replay.base_config(
        "simsiam", steps_per_epoch=case.steps_per_epoch, epochs=case.epochs
    )
    config.method.update(
        {
            "hidden": None,  # that of the encoder
            "output": OUTPUT,
            "predictor_hidden": PREDICTOR_HIDDEN,
            "constant_predictor_rate": case.constant_predictor_rate,
        }
    )
    config.optimizer.update(
        {
            "name": "sgd",
            "momentum": 0.9,
            "learning_rate": case.peak * 256 / BATCH,
            "end_learning_rate": 0.0,
            "schedule": "moco_v2",
            "warmup_epochs": 0.0,
            "weight_decay": case.decay,
            "end_weight_decay": case.decay,
            "decay": "all",
        }
    )
    return config, images


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(x, marks=() if x == "constant" else pytest.mark.slow)
        for x in sorted(SIMSIAM_CASES)
    ],
)
def run(request):
    """(recorded arrays, states and metrics of our run) of a case."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        history = replay.replay(
            *config_of(SIMSIAM_CASES[request.param]),
            tree(simsiam_weights()),
            lambda step: global_views("simsiam", step),
            monkeypatch,
        )
    return from_torch_names.with_prefix(GOLDEN, f"{request.param}/"), history


def test_losses_and_schedules(run):
    golden, history = run
    np.testing.assert_allclose(
        replay.column(history, "learning_rate"), golden["learning_rate"][:, 0], rtol=2e-6
    )
    np.testing.assert_allclose(replay.column(history, "negative_cosine"), golden["loss"], atol=1e-5)
    # Ours is 1 more, so that it is never negative.
    np.testing.assert_allclose(replay.column(history, "loss"), 1 + golden["loss"], atol=1e-5)
    np.testing.assert_allclose(
        replay.column(history, "grad_norm"), replay.total_gradient_norm(golden), rtol=1e-3
    )


def test_parameters(run):
    """In one case the predictor's learning rate stays where the encoder's falls."""
    golden, history = run
    official = tree(from_torch_names.with_prefix(golden, "final/"))
    assert_close(history[-1][0].params, official, tolerance=1e-5)
    assert not jax.tree.leaves(history[-1][0].target_params)


def test_running_statistics(run):
    golden, history = run
    for steps, prefix in ((1, "first_step/"), (STEPS, "final/")):
        recorded = {
            n.removeprefix("encoder."): x
            for n, x in from_torch_names.with_prefix(golden, prefix).items()
        }
        updates = {"examples": BATCH, "updates": 2 * steps}  # one update for each view
        official = {
            "projector": from_torch_names.head_statistics(recorded, PROJECTOR, **updates),
            "predictor": from_torch_names.head_statistics(recorded, PREDICTOR, **updates),
        }
        assert_close(history[steps][0].batch_stats, official, tolerance=1e-4)


def test_loss_on_random_features(monkeypatch):
    method = replay.learner_of(*config_of(SIMSIAM_CASES["cosine"]), monkeypatch).method
    projections = jnp.stack([features("simsiam/z1"), features("simsiam/z2")], axis=1)

    def mean_loss(first, second):
        online = Projected(projections, jnp.stack([first, second], axis=1))
        return method.loss(online, None, {}, jnp.int32(0))[0].mean()

    predictions = features("simsiam/p1"), features("simsiam/p2")
    value, gradients = jax.value_and_grad(mean_loss, argnums=(0, 1))(*predictions)
    np.testing.assert_allclose(value, 1 + GOLDEN["loss/value"], atol=1e-5)
    for gradient, name in zip(gradients, ("p1", "p2"), strict=True):
        np.testing.assert_allclose(gradient, GOLDEN[f"loss/gradient_{name}"], atol=1e-5)


def test_whole_schedule():
    clock = Clock(TABLE_STEPS_PER_EPOCH, TABLE_EPOCHS * TABLE_STEPS_PER_EPOCH)
    schedule = LEARNING_RATE_SCHEDULES["moco_v2"](SIMSIAM_CASES["constant"].peak, clock, WarmUp())
    ours = replay.table(schedule, clock.total_steps)
    official = GOLDEN["table/learning_rate"][:, 0].repeat(TABLE_STEPS_PER_EPOCH)
    np.testing.assert_allclose(ours, official, rtol=1e-5)
