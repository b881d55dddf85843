"""Three optimiser steps of MoBY through the real train step against the official code.

Heads, two queues, moving average, scheduler behind the optimizer, clipping of the whole gradient,
decay mask; on a ViT and on Swin. Recorded by golden/record_moby.py. Drop path is in
tests/methods/test_every_method.py.
"""

import jax
import numpy as np
import pytest
from golden import from_torch_names, replay, swin_weights
from golden.cases import BATCH, STEPS, TABLE_EPOCHS, TABLE_STEPS_PER_EPOCH
from golden.cases_contrastive import (
    HIDDEN,
    MOBY_CASES,
    MOBY_SWIN,
    MOBY_SWIN_CASE,
    MOBY_SWIN_DEPTHS,
    MOBY_SWIN_HEADS,
    MOBY_TABLE,
    MOBY_TEMPERATURE,
    OUTPUT,
    QUEUE,
    Case,
    features,
    global_views,
    moby_swin_weights,
    moby_weights,
    queue,
)
from golden.compare import FOLDER, assert_close

from repre_jax.losses.contrastive import queue_info_nce
from repre_jax.training import defaults

GOLDEN = dict(np.load(FOLDER / "moby.npz")) | dict(np.load(FOLDER / "moby_swin.npz"))
CASES = MOBY_CASES | {"swin": MOBY_SWIN_CASE}

# Biases that change nothing (golden/cases_contrastive.py): the recording silences them, too.
UNDETERMINED = (
    "qkv/bias/key",
    "encoder/norm/bias",
    "projector/dense_0/bias",
    "projector/dense_1/bias",
    "predictor/dense_0/bias",
)


def layers(prefix: str):
    return [
        (f"{prefix}.linear_hidden.1", f"{prefix}.linear_hidden.2"),
        (f"{prefix}.linear_out", None),
    ]


def encoder_tree(state) -> dict:
    """Of a ViT or of the Swin, by its names."""
    if "cls_token" in state:
        return from_torch_names.encoder(state)
    return swin_weights.params_of(state, MOBY_SWIN_DEPTHS)


def network(state, encoder: str, heads: dict[str, str]) -> dict:
    """{"encoder", "heads"} from the encoder under a prefix and the heads under theirs."""
    return {
        "encoder": encoder_tree(from_torch_names.with_prefix(state, encoder)),
        "heads": {
            name: from_torch_names.head(state, layers(prefix)) for name, prefix in heads.items()
        },
    }


def online_tree(state, encoder: str) -> dict:
    return network(state, encoder, {"projector": "projector", "predictor": "predictor"})


def statistics(state, heads: dict[str, str], *, steps: int) -> dict:
    return {
        name: from_torch_names.head_statistics(
            state, layers(prefix), examples=BATCH, updates=2 * steps
        )
        for name, prefix in heads.items()
    }


def config_of(case: Case):
    config, images = replay.base_config(
        "moby", steps_per_epoch=case.steps_per_epoch, epochs=case.epochs
    )
    config.method.update(
        {
            "hidden": HIDDEN,
            "output": OUTPUT,
            "temperature": MOBY_TEMPERATURE,
            "queue": QUEUE,
            "momentum": case.momentum,
        }
    )
    scale = 256 / BATCH
    config.optimizer.update(
        {
            "name": "adamw",
            "learning_rate": case.peak * scale,
            "start_learning_rate": case.start * scale,
            "end_learning_rate": case.end * scale,
            "scale_ends": True,
            "schedule": "moby",
            "warmup_epochs": float(case.warmup_epochs),
            "weight_decay": case.decay,
            "end_weight_decay": case.decay,
            "decay": "matrices",
            "clip_global": case.clip,
        }
    )
    return config, images


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(x, marks=() if x == "warmup" else pytest.mark.slow) for x in sorted(CASES)
    ],
)
def run(request):
    """(recorded arrays, states and metrics of our run) of a case."""
    memory = {
        "queue_1": queue("moby/queue1"),
        "queue_2": queue("moby/queue2"),
        "pointer": np.int32(0),
    }
    config, images = config_of(CASES[request.param])
    initial = moby_weights()
    if request.param == "swin":
        defaults.usual_size(config)
        config.model.update({"name": "swin_nano", "window": MOBY_SWIN.window})
        config.model.update({"width": swin_weights.WIDTH, "stage_depths": MOBY_SWIN_DEPTHS})
        config.model.stage_heads = MOBY_SWIN_HEADS
        initial = moby_swin_weights()
    with pytest.MonkeyPatch.context() as monkeypatch:
        history = replay.replay(
            config,
            images,
            online_tree(initial, ""),
            lambda step: global_views("moby", step),
            monkeypatch,
            memory,
            UNDETERMINED,
        )
    return from_torch_names.with_prefix(GOLDEN, f"{request.param}/"), history


def test_losses_and_schedules(run):
    golden, history = run
    np.testing.assert_allclose(
        replay.column(history, "learning_rate"), golden["learning_rate"][:, 0], rtol=2e-6
    )
    # The momentum that ends a step is the one that begins the official next step.
    np.testing.assert_allclose(
        replay.column(history, "momentum")[:-1], golden["momentum"][1:], rtol=2e-6
    )
    np.testing.assert_allclose(replay.column(history, "loss"), golden["loss"], atol=1e-5)
    norms = replay.column(history, "grad_norm")
    np.testing.assert_allclose(norms, golden["total_norm"], rtol=1e-3)


def test_online_parameters(run):
    golden, history = run
    official = online_tree(from_torch_names.with_prefix(golden, "final/"), "encoder.")
    assert_close(history[-1][0].params, official, tolerance=1e-4)


def test_target_parameters(run):
    """The official target moves at the start of a step, ours at the end of the one before."""
    golden, history = run
    final = from_torch_names.with_prefix(golden, "final/")
    ours = history[STEPS - 1][0].target_params
    heads = {"projector": "projector_k"}
    if any(name.startswith("encoder_k.") for name in final):
        official = network(final, "encoder_k.", heads)
    else:  # not recorded
        official = {"heads": {"projector": from_torch_names.head(final, layers("projector_k"))}}
        ours = {"heads": ours["heads"]}
    assert_close(ours, official, tolerance=2e-6)


def test_running_statistics(run):
    golden, history = run
    for steps, prefix in ((1, "first_step/"), (STEPS, "final/")):
        state, recorded = history[steps][0], from_torch_names.with_prefix(golden, prefix)
        online = statistics(
            recorded, {"projector": "projector", "predictor": "predictor"}, steps=steps
        )
        target = statistics(recorded, {"projector": "projector_k"}, steps=steps)
        assert_close(state.batch_stats, online, tolerance=1e-4)
        assert_close(state.target_batch_stats, target, tolerance=1e-4)


def test_queues(run):
    """After one step half of them is new; after three the first half has been written twice."""
    golden, history = run
    for steps, prefix, tolerance in ((1, "first_step/", 1e-5), (STEPS, "final/", 1e-4)):
        memory, recorded = history[steps][0].memory, from_torch_names.with_prefix(golden, prefix)
        official = {
            "queue_1": recorded["queue1"].T,
            "queue_2": recorded["queue2"].T,
            "pointer": recorded["queue_ptr"][0],
        }
        assert_close(memory, official, tolerance=tolerance)


def test_loss_on_random_features():
    queries, keys = features("moby/queries"), features("moby/keys")

    def mean_loss(x):
        return queue_info_nce(x, keys, queue("moby/queue1"), temperature=MOBY_TEMPERATURE).mean()

    value, gradient = jax.value_and_grad(mean_loss)(queries)
    np.testing.assert_allclose(value, GOLDEN["loss/value"], atol=1e-5)
    np.testing.assert_allclose(gradient, GOLDEN["loss/query_gradient"], atol=1e-5)


def test_whole_schedules(monkeypatch):
    learner = replay.learner_of(*config_of(MOBY_TABLE), monkeypatch)
    steps = TABLE_EPOCHS * TABLE_STEPS_PER_EPOCH
    ours = replay.table(learner.learning_rate, steps)
    np.testing.assert_allclose(ours, GOLDEN["table/learning_rate"], rtol=1e-5)
    momentum = replay.table(learner.method.target.momentum, steps)
    np.testing.assert_allclose(momentum[:-1], GOLDEN["table/momentum"][1:], rtol=1e-6)
