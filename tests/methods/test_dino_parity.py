"""Three optimiser steps of DINO through the real train step against the official code.

Schedules, per-tensor clipping, frozen last layer, decay mask, teacher, centre, multi-crop: all act
in these runs. Recorded by golden/record_dino.py.
"""

import numpy as np
import pytest
from golden import from_torch_names, replay
from golden.cases import (
    BATCH,
    DINO_CASES,
    DINO_HEAD,
    DINO_OPTION_CASES,
    LOCAL_CROPS,
    LOCAL_SIZE,
    STEPS,
    DINOCase,
    dino_views,
    dino_weights,
)
from golden.compare import FOLDER, assert_close

GOLDEN = dict(np.load(FOLDER / "dino.npz")) | dict(np.load(FOLDER / "dino_options.npz"))
CASES = DINO_CASES | DINO_OPTION_CASES

# A bias of the keys adds the same to every logit of a query: the softmax does not see it.
UNDETERMINED = ("qkv/bias/key",)
# What only shifts the input of a BatchNorm, which centres it.
CENTRED = ("encoder/norm/bias", "projector/dense_0/bias", "projector/dense_1/bias")


def tree(state) -> dict:
    return {"encoder": from_torch_names.encoder(state), "heads": from_torch_names.dino_heads(state)}


def config_of(case: DINOCase):
    config, images = replay.base_config(
        "dino", steps_per_epoch=case.steps_per_epoch, epochs=case.epochs
    )
    config.method.update(DINO_HEAD)
    config.method.update(
        {
            "batch_norm": case.batch_norm,
            "normalise_last_layer": case.norm_last_layer,
            "freeze_last_layer_epochs": float(case.freeze_last_layer),
            "teacher_temperature_start": case.teacher_temperature_start,
            "teacher_temperature": case.teacher_temperature,
            "teacher_temperature_warmup_epochs": case.teacher_temperature_epochs,
            "momentum": case.momentum,
        }
    )
    config.views.update({"local_crops": LOCAL_CROPS, "local_size": LOCAL_SIZE})
    config.optimizer.update(
        {
            "learning_rate": case.peak * 256 / BATCH,
            "end_learning_rate": case.end,
            "warmup_epochs": float(case.warmup_epochs),
            "weight_decay": case.decay,
            "end_weight_decay": case.decay_end,
            "clip_per_tensor": case.clip,
        }
    )
    return config, images


@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=pytest.mark.slow if x != "clip_0.3" else ()) for x in sorted(CASES)],
)
def test_three_steps(name, monkeypatch):
    case = CASES[name]
    golden = from_torch_names.with_prefix(GOLDEN, f"{name}/")
    history = replay.replay(*config_of(case), tree(dino_weights(case)), dino_views, monkeypatch)

    for metric in ("learning_rate", "momentum", "teacher_temperature"):
        np.testing.assert_allclose(replay.column(history, metric), golden[metric], rtol=2e-6)
    np.testing.assert_allclose(replay.column(history, "loss"), golden["loss"], atol=1e-5)
    centres = [state.memory["centre"] for state, _ in history[1:]]
    np.testing.assert_allclose(centres, golden["centre"][:, 0], atol=1e-5)
    norms = np.sqrt(np.nansum(golden["gradient_norm"] ** 2, axis=1))  # before clipping, both
    np.testing.assert_allclose(replay.column(history, "grad_norm"), norms, rtol=1e-3)

    final = history[-1][0]
    undetermined = UNDETERMINED + (CENTRED if case.batch_norm else ())
    limits = {"undetermined": undetermined, "reach": 2 * golden["learning_rate"].sum()}
    student = tree(from_torch_names.with_prefix(golden, "student/"))
    teacher = tree(from_torch_names.with_prefix(golden, "teacher/"))
    assert_close(final.params, student, tolerance=1e-4, **limits)
    assert_close(final.target_params, teacher, tolerance=1e-4, **limits)
    if case.batch_norm:
        assert_statistics_close(final.batch_stats, golden, "student", crops=2 + LOCAL_CROPS)
        assert_statistics_close(final.target_batch_stats, golden, "teacher", crops=2)
    else:
        assert final.batch_stats == final.target_batch_stats == {}


def assert_statistics_close(ours, golden, part: str, *, crops: int) -> None:
    """One update a step, of all crops together; means follow the biases that nothing determines."""
    recorded = from_torch_names.head_statistics(
        from_torch_names.with_prefix(golden, f"{part}/"),
        from_torch_names.DINO_BATCH_NORM_LAYERS,
        examples=crops * BATCH,
        updates=STEPS,
    )
    means = {"undetermined": ("norm_0/mean", "norm_1/mean"), "reach": 0.02}
    assert_close(ours, {"projector": recorded}, tolerance=1e-4, **means)


@pytest.mark.slow
def test_gradients_of_a_head_with_batch_norm(monkeypatch):
    case = DINO_OPTION_CASES["batch_norm"]
    params = tree(dino_weights(case))
    found = replay.first_gradients(*config_of(case), params, dino_views, monkeypatch)
    recorded = from_torch_names.with_prefix(GOLDEN, "batch_norm/first_gradient/")
    # The frozen gain of the last layer has none.
    gain = {"head.last_layer.weight_g": np.zeros((DINO_HEAD["prototypes"], 1), np.float32)}
    official = from_torch_names.dino_heads(recorded | gain)
    assert_close(found["heads"], official, tolerance=1e-5)
    assert np.abs(official["projector"]["norm_0"]["scale"]).max() > 1e-3
