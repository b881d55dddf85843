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
    LOCAL_CROPS,
    LOCAL_SIZE,
    DINOCase,
    dino_views,
    dino_weights,
)
from golden.compare import FOLDER, assert_close

GOLDEN = dict(np.load(FOLDER / "dino.npz"))

# A bias of the keys adds the same to every logit of a query: the softmax does not see it.
UNDETERMINED = ("qkv/bias/key",)


def tree(state) -> dict:
    return {"encoder": from_torch_names.encoder(state), "heads": from_torch_names.dino_heads(state)}


def config_of(case: DINOCase):
    config, images = replay.base_config(
        "dino", steps_per_epoch=case.steps_per_epoch, epochs=case.epochs
    )
    config.method.update(DINO_HEAD)
    config.method.update(
        {
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


@pytest.mark.parametrize("name", sorted(DINO_CASES))
def test_three_steps(name, monkeypatch):
    case = DINO_CASES[name]
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
    limits = {"undetermined": UNDETERMINED, "reach": 2 * golden["learning_rate"].sum()}
    student = tree(from_torch_names.with_prefix(golden, "student/"))
    teacher = tree(from_torch_names.with_prefix(golden, "teacher/"))
    assert_close(final.params, student, tolerance=1e-4, **limits)
    assert_close(final.target_params, teacher, tolerance=1e-4, **limits)
