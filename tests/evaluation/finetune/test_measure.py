"""Whole fine-tunings: results, exact resume, devices, backbones, and what is refused."""

import dataclasses
import json
import os
import signal
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from tiny import saved_run
from whole_runs import checkpoint_steps, image_folder, rows

from repre_jax.config_files import read_config
from repre_jax.errors import UserError
from repre_jax.evaluate import evaluate
from repre_jax.evaluation import TASKS
from repre_jax.evaluation import task as task_module
from repre_jax.evaluation.finetune import measure as finetune
from repre_jax.evaluation.finetune.recipes import views_of
from repre_jax.evaluation.finetune.step import initial_state
from repre_jax.runs.interruption import Stopped
from repre_jax.runs.loop import TrainingLoop

# 32 images, so 4 steps an epoch, 8 in all.
SMALL = {
    "recipe.batch_size": 8,
    "recipe.epochs": 2.0,
    "recipe.learning_rate": 0.03,
    "recipe.schedule": "moco_v3",  # DeiT's own would warm up for two whole epochs
    "recipe.warmup_epochs": 0.5,
    "recipe.average_decay": 0.5,
    "recipe.rand_augment_magnitude": 1.0,
    "recipe.erasing_probability": 0.0,  # its compilation is paid for elsewhere
    "batch_size": 8,
    "devices": 1,
    "save_every_steps": 3,
    "log_every_steps": 1,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A DINO run with random parameters, and 32 + 11 images, bright ones and dark ones."""
    root = tmp_path_factory.mktemp("finetune")
    saved_run(root / "vit", "dino", steps=(3,))
    image_folder(root / "images", train=32, val=11)
    return root


def config_of(root, **changes):
    config = read_config("eval/finetune")
    config.checkpoint = str(root / "vit")
    config.data.update({"source": "folder", "path": str(root / "images")})
    config.update_from_flattened_dict(SMALL | changes)
    return config


@pytest.fixture(scope="module")
def finished(root):
    """(folder, results) of an uninterrupted run."""
    return root / "whole", evaluate(config_of(root), root / "whole")


@pytest.fixture
def measured_by(monkeypatch):
    """Function: lets a fine-tuning do something else, and end as if it had been stopped."""

    def apply(measure):
        def measure_and_stop(evaluation):
            measure(evaluation)
            raise Stopped(signal.SIGTERM)

        other = dataclasses.replace(TASKS["finetune"], measure=measure_and_stop)
        monkeypatch.setitem(TASKS, "finetune", other)

    return apply


def final_state(folder) -> str:
    (path,) = folder.glob("checkpoints/8/about/metadata")
    return json.loads(path.read_text())["sha256"]


def test_results_say_what_was_trained_and_how_well(finished):
    folder, results = finished
    assert json.loads((folder / "results.json").read_text()) == results
    assert {
        "task": "finetune",
        "metric": "top1",
        "protocol": "finetune_moco_v3",
        "step": 3,
    }.items() <= (results.items())
    last, best = results["metrics"]["last"], results["metrics"]["best"]
    assert results["value"] == last["val/top1"]
    scored = [row for row in rows(folder) if "val/top1" in row]
    assert [row["step"] for row in scored] == [4, 8]
    for score in ("val/top1", "average/top1"):
        values = [row[score] for row in scored]
        assert best[score]["value"] == max(values)
        assert best[score]["epoch"] == 1 + values.index(max(values))
    assert last["val/top1"] > 0.5  # bright or dark
    assert "2 epochs of AdamW at batch 8, learning rate 0.03 x batch / 256" in results["formula"]
    assert set(last) == {
        f"{kind}/{name}" for kind in ("val", "average") for name in ("loss", "top1")
    }


class Killed(Exception):
    """Stands in for a SIGKILL: nothing is saved any more."""


SLOW_FATES = ("told to stop at the end", "killed")


@pytest.mark.parametrize(
    "fate",
    ["told to stop", *(pytest.param(fate, marks=pytest.mark.slow) for fate in SLOW_FATES)],
)
def test_an_interrupted_run_goes_on_bit_for_bit(root, finished, monkeypatch, capsys, fate):
    """In the fifth step, two behind a checkpoint, or in the last one."""
    folder, real = root / fate, TrainingLoop._check_finite
    steps = iter(range(100))

    def check_then_end(*arguments):
        if next(steps) == (6 if fate == "told to stop at the end" else 3):
            if fate == "killed":
                raise Killed
            os.kill(os.getpid(), signal.SIGTERM)
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "_check_finite", check_then_end)
        with pytest.raises(Killed if fate == "killed" else Stopped):
            evaluate(config_of(root), folder)
        if fate != "killed":
            assert "the same command goes on" in capsys.readouterr().out
    assert not (folder / "results.json").exists()
    assert (checkpoint_steps(folder)[-1] == 8) == (fate == "told to stop at the end")
    results = evaluate(config_of(root), folder)
    assert "Resumed at step" in capsys.readouterr().out
    assert final_state(folder) == final_state(finished[0])
    if fate == "told to stop at the end":
        assert rows(folder)[-1] == rows(finished[0])[-1]  # the row before it has no measurement
    else:
        assert rows(folder) == rows(finished[0])
    assert results["metrics"]["last"] == finished[1]["metrics"]["last"]
    assert results["metrics"]["best"] == finished[1]["metrics"]["best"]


@pytest.mark.slow
def test_from_scratch_with_the_same_budget_on_eight_devices(root):
    """Random weights, mean of the tokens, another image size."""
    changes = {"weights": "random", "protocol": "mae", "image_size": 24, "recipe.epochs": 0.5}
    results = [
        evaluate(config_of(root, devices=n, **changes), root / f"scratch{n}") for n in (1, 8)
    ]
    assert results[0]["weights"] == "random"
    first, second = (result["metrics"]["last"] for result in results)
    assert first["val/top1"] == second["val/top1"]
    np.testing.assert_allclose(first["val/loss"], second["val/loss"], rtol=1e-4)


def test_validation_is_exact_for_any_batch_and_devices(root, measured_by):
    """Of a network that is not trained: 11 images, the last batch padded."""
    measured = []

    def validate_only(evaluation):
        finetuner, _, params = finetune.build(evaluation)
        assert finetuner.encoder.drop_path == 0.3
        params = initial_state(finetuner, params).params
        params["head"]["kernel"] = 0.02 * jax.random.normal(jax.random.key(1), (128, 2))
        measured.append(finetune.validation(evaluation, finetuner)(params))

    measured_by(validate_only)
    for devices, batch_size in ((1, 8), (8, 8), (1, 5)):
        changes = {"devices": devices, "batch_size": batch_size, "recipe.drop_path": 0.3}
        config = config_of(root, **changes)
        with pytest.raises(Stopped):
            evaluate(config, root / "validated")
    assert measured[0]["loss"] > 0.01
    for other in measured[1:]:
        assert other["top1"] == measured[0]["top1"]
        np.testing.assert_allclose(other["loss"], measured[0]["loss"], rtol=1e-5)


def test_the_average_is_validated_beside_the_parameters():
    """Accuracies that stand for what was validated."""
    run = SimpleNamespace(validate=lambda params: {"top1": params, "loss": -params})
    state = SimpleNamespace(params=0.25, average=0.5)
    expected = {"val/top1": 0.25, "val/loss": -0.25, "average/top1": 0.5, "average/loss": -0.5}
    assert finetune.measure(run, state) == expected
    without = SimpleNamespace(params=0.25, average={})
    assert set(finetune.measure(run, without)) == {"val/top1", "val/loss"}


class Enough(Exception):
    """What a test wanted to see has been seen."""


@pytest.mark.parametrize(
    ("protocol", "image_size", "interpolation", "crop_ratio"),
    [
        # Of larger images MAE keeps the whole short side, DeiT and SimMIM as much as of others.
        ("mae", 224, "bicubic", 7 / 8),
        ("mae", 256, "bicubic", 1.0),
        ("moco_v3", 256, "bicubic", 7 / 8),
        ("simmim", 256, "bicubic", 7 / 8),
        ("mae", 224, "bilinear", 7 / 8),
    ],
)
def test_images_as_they_are_asked_for(
    root, tmp_path, monkeypatch, measured_by, protocol, image_size, interpolation, crop_ratio
):
    """For validation and for training, without reading one."""
    asked = []

    def validation_images(source, **options):
        asked.append((source.description, options))
        raise Enough

    def training_images(source, views, **options):
        asked.append((source.description, views, options))
        raise Enough

    def ask_only(evaluation):
        finetuner, clock, _ = finetune.build(evaluation)
        with pytest.raises(Enough):
            finetune.validation(evaluation, finetuner)({})
        run = finetune.Run(evaluation, finetuner, clock, None, None, None)
        with pytest.raises(Enough):
            finetune.open_batches(run, 3)
        (source, validation), (train_source, views, training) = asked
        assert (source, train_source) == (evaluation.val.description, evaluation.train.description)
        assert validation["interpolation"] == interpolation
        assert (validation["crop_ratio"], validation["image_size"]) == (crop_ratio, image_size)
        assert views == views_of(finetuner.recipe)
        assert training["image_size"] == image_size
        assert (training["start_step"], training["total_steps"]) == (3, clock.total_steps)

    monkeypatch.setattr(task_module, "evaluation_batches", validation_images)
    monkeypatch.setattr(finetune, "training_batches", training_images)
    measured_by(ask_only)
    changes = {
        "protocol": protocol,
        "image_size": image_size,
        "recipe.interpolation": interpolation,
    }
    config = config_of(root, **changes)
    with pytest.raises(Stopped):
        evaluate(config, tmp_path)
    assert len(asked) == 2


@pytest.mark.slow
def test_swin(root):
    saved_run(root / "swin", "moby", name="swin_nano", patch_size=4, image_size=32, window=4)
    config = config_of(root, checkpoint=str(root / "swin"), **{"recipe.epochs": 0.5})
    results = evaluate(config, root / "swin_finetuned")
    assert results["protocol"] == "finetune_simmim"
    assert np.isfinite(results["metrics"]["last"]["val/loss"])


def test_what_cannot_be_trained_is_said(root, tmp_path):
    def told(**changes):
        with pytest.raises(UserError) as error:
            evaluate(config_of(root, **changes), tmp_path / str(len(changes)) / min(changes))
        return str(error.value)

    assert "protocol='beit' must be one of mae, moco_v3, simmim" in told(protocol="beit")
    assert "fewer than recipe.batch_size=64" in told(**{"recipe.batch_size": 64})
    assert "cannot be split over 8 devices" in told(devices=8, **{"recipe.batch_size": 12})


def test_classification_metrics():
    logits = np.array(
        [[2, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1], [1, 1, 0, 0, 0, 0], [9, 0, 0, 0, 0, 0.0]]
    )
    metrics = finetune.classification_metrics(logits, np.array([0, 1, 0, -1]))
    # The second has its class behind one, level with four; a tie for the first place is no success.
    assert metrics["top1"] == pytest.approx(1 / 3)
    assert metrics["top5"] == pytest.approx(2 / 3)
    log_sum = np.log(np.exp(logits[:3]).sum(axis=1))
    assert metrics["loss"] == pytest.approx((log_sum - [2, 0, 1]).mean())
