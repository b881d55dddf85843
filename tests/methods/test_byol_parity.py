"""Three optimiser steps of BYOL through the real train step against the official code.

Heads, loss, LARS, schedules, moving average, running statistics, on a linear encoder. Recorded by
golden/record_byol.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import from_torch_names, replay
from golden.cases import BATCH, STEPS
from golden.cases_contrastive import (
    BYOL_CASES,
    HIDDEN,
    OUTPUT,
    WARMUP_TABLE,
    Case,
    byol_weights,
    features,
    global_views,
)
from golden.compare import FOLDER, assert_close, kernels

from repre_jax.models.heads import Projected

GOLDEN = dict(np.load(FOLDER / "byol.npz"))


def initial_tree() -> dict:
    values = byol_weights()
    heads = {}
    for name in ("projector", "predictor"):
        layers = [(f"{name}.linear", f"{name}.batch_norm"), (f"{name}.linear_1", None)]
        heads[name] = from_torch_names.head(values, layers)
    return {"encoder": from_torch_names.linear_encoder(values), "heads": heads}


def haiku_linear(golden, prefix: str) -> dict:
    layer = {"kernel": golden[f"{prefix}/w"]}
    if f"{prefix}/b" in golden:
        layer["bias"] = golden[f"{prefix}/b"]
    return layer


def haiku_tree(golden, network: str, heads: tuple[str, ...]) -> dict:
    """Recorded parameters of "online" or "target"."""
    state = from_torch_names.with_prefix(golden, f"{network}/")
    return {
        "encoder": {"dense": haiku_linear(state, "linear_encoder/linear")},
        "heads": {
            name: {
                "dense_0": haiku_linear(state, f"{name}/linear"),
                "norm_0": {
                    "scale": state[f"{name}/batch_norm/scale"][0],
                    "bias": state[f"{name}/batch_norm/offset"][0],
                },
                "dense_1": haiku_linear(state, f"{name}/linear_1"),
            }
            for name in heads
        },
    }


def haiku_statistics(golden, network: str, heads: tuple[str, ...]) -> dict:
    """Recorded averages; Haiku's start at zero, ours at mean 0 and variance 1."""
    start = 0.9 ** (2 * STEPS)
    return {
        name: {
            "norm_0": {
                "mean": golden[f"{network}_state/{name}/batch_norm/~/mean_ema/hidden"][0],
                "var": golden[f"{network}_state/{name}/batch_norm/~/var_ema/hidden"][0] + start,
            }
        }
        for name in heads
    }


def config_of(case: Case):
    config, images = replay.base_config(
        "byol", steps_per_epoch=case.steps_per_epoch, epochs=case.epochs
    )
    config.model.name = "golden_linear"
    config.method.update(
        {"heads": "byol", "hidden": HIDDEN, "output": OUTPUT, "momentum": case.momentum}
    )
    config.optimizer.update(
        {
            "name": "lars",
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
        pytest.param(x, marks=() if x == "warmup" else pytest.mark.slow) for x in sorted(BYOL_CASES)
    ],
)
def run(request):
    """(recorded arrays, states and metrics of our run) of a case."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        history = replay.replay(
            *config_of(BYOL_CASES[request.param]),
            initial_tree(),
            lambda step: global_views("byol", step),
            monkeypatch,
        )
    return from_torch_names.with_prefix(GOLDEN, f"{request.param}/"), history


def test_losses_and_schedules(run):
    golden, history = run
    for name in ("learning_rate", "momentum"):
        np.testing.assert_allclose(replay.column(history, name), golden[name], rtol=2e-6)
    np.testing.assert_allclose(replay.column(history, "loss"), golden["loss"], atol=1e-5)


def test_parameters(run):
    """Biases and norms, outside LARS, move by their gradients times learning rates of up to 2."""
    golden, history = run
    final = history[-1][0]
    for ours, network, heads in (
        (final.params, "online", ("projector", "predictor")),
        (final.target_params, "target", ("projector",)),
    ):
        official = haiku_tree(golden, network, heads)
        assert_close(ours, official, tolerance=1e-4)
        assert_close(kernels(ours), kernels(official), tolerance=2e-6)


def test_running_statistics(run):
    golden, history = run
    final = history[-1][0]
    online = haiku_statistics(golden, "online", ("projector", "predictor"))
    assert_close(final.batch_stats, online, tolerance=1e-5)
    target = haiku_statistics(golden, "target", ("projector",))
    assert_close(final.target_batch_stats, target, tolerance=1e-5)


def test_loss_on_random_features(monkeypatch):
    method = replay.learner_of(*config_of(BYOL_CASES["cosine"]), monkeypatch).method
    projections = features("byol/projections")
    both = jnp.stack([projections, projections], axis=1)

    def per_example(predictions):
        online = Projected(both, jnp.stack([predictions, predictions], axis=1))
        # Two directions, here the same twice.
        return method.loss(online, both, {}, jnp.int32(0))[0] / 2

    predictions = features("byol/predictions")
    np.testing.assert_allclose(per_example(predictions), GOLDEN["loss/value"], atol=1e-5)
    gradient = jax.grad(lambda x: per_example(x).mean())(predictions)
    np.testing.assert_allclose(gradient, GOLDEN["loss/prediction_gradient"], atol=1e-5)


def test_whole_schedules(monkeypatch):
    learner = replay.learner_of(*config_of(WARMUP_TABLE), monkeypatch)
    steps = WARMUP_TABLE.epochs * WARMUP_TABLE.steps_per_epoch
    # Near the end, 1 + cos(x) has few digits in float32, officially as here.
    ours = replay.table(learner.learning_rate, steps)
    np.testing.assert_allclose(ours, GOLDEN["table/learning_rate"], rtol=1e-5, atol=1e-6)
    momentum = replay.table(learner.method.target.momentum, steps)
    np.testing.assert_allclose(momentum, GOLDEN["table/momentum"], rtol=1e-6)
