"""Training detectors from top to bottom: validation, exact resume, devices, what is refused."""

import collections
import json
import os
import shutil
import signal
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from dense_sets import upright_and_flat_shapes
from tiny import saved_run
from whole_runs import checkpoint_steps, rows

from benchmarks.shapes import write_shapes
from repre_jax.config_files import read_config
from repre_jax.data.detection.coco import CocoSource
from repre_jax.data.detection.views import fitted_window, view_objects
from repre_jax.errors import UserError
from repre_jax.evaluate import evaluate
from repre_jax.evaluation.checkpoint import open_pretrained
from repre_jax.evaluation.detection.recipes import RECIPES
from repre_jax.evaluation.detection.step import Trainer
from repre_jax.evaluation.detection.validation import Validation
from repre_jax.evaluation.stored import read_chosen
from repre_jax.evaluation.task import Evaluation
from repre_jax.models.detection.detector import Detections
from repre_jax.runs.interruption import Stopped
from repre_jax.runs.loop import TrainingLoop
from repre_jax.sharding import make_mesh

# 16 images, so 2 steps an epoch, 6 in all.
SMALL = {
    "image_size": 64,
    "recipe.batch_size": 8,
    "recipe.epochs": 3.0,
    "recipe.objects": 6,
    "recipe.remat": "none",
    "recipe.proposal_convolutions": 1,
    "recipe.box_convolutions": 0,
    "recipe.pyramid_width": 16,
    "batch_size": 8,
    "devices": 1,
    "validate_every_epochs": 2.0,
    "save_every_steps": 1,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A DINO run with random parameters, and 16 + 6 images of shapes."""
    root = tmp_path_factory.mktemp("detection")
    saved_run(root / "vit", "dino", steps=(3,))
    write_shapes(root / "shapes", train=16, val=6, side=96)
    return root


def config_of(root, **changes):
    config = read_config("detect/folder:smoke")
    config.checkpoint = str(root / "vit")
    config.data.path = str(root / "shapes")
    config.update_from_flattened_dict(SMALL | changes)
    return config


def test_validation_finds_what_the_detector_says_in_the_pixels_of_the_files(root, tmp_path):
    """A detector that knows the truth, of squares of other sizes and shapes than the images."""
    source, side = CocoSource(root / "shapes", "val"), 80
    config = config_of(root, batch_size=4)
    evaluation = Evaluation(
        config, None, source, source, make_mesh(1), SimpleNamespace(path=tmp_path)
    )

    def truth(params, batch):
        del params
        return jax.pure_callback(seen, shapes, batch["image"])

    count = 6
    parts = {"boxes": (4,), "scores": (), "classes": (), "valid": (), "masks": (28, 28)}
    kinds = {"classes": np.int32, "valid": bool}
    shapes = Detections(
        *(
            jax.ShapeDtypeStruct((4, count, *shape), kinds.get(name, np.float32))
            for name, shape in parts.items()
        ),
        jax.ShapeDtypeStruct((4,), bool),
    )
    asked = iter([(0, 1, 2, 3), (4, 5)])

    def seen(images):
        found = [np.zeros(x.shape, x.dtype) for x in jax.tree.leaves(shapes)]
        found[-1][0] = True
        for row, index in enumerate(next(asked)):
            size = source.size(index)
            objects = view_objects(source.instances(index), size, fitted_window(size, side, side))
            n = len(objects.boxes)
            assert np.asarray(images)[row].any()
            cells = objects.masks.reshape(n, 28, 4, 28, 4).mean(axis=(2, 4))
            values = (objects.boxes, np.ones(n), objects.classes, np.ones(n, bool), cells)
            for part, value in zip(found, values, strict=False):
                part[row, :n] = value
        return Detections(*found)

    validation = Validation(
        evaluation, SimpleNamespace(side=side, detections=truth, recipe=RECIPES["vitdet"])
    )
    metrics = validation.metrics({})
    assert metrics["val/box_AP"] == pytest.approx(1, abs=1e-6)
    assert metrics["val/mask_AP"] > 0.97
    assert not evaluation.unreadable
    assert validation.cut_short == 2, "an image of each batch"
    assert set(validation.precisions["mask"]) > {"AP_small", "AR_100"}


def test_images_none_of_which_can_be_read_are_said_before_the_training(root, tmp_path):
    shutil.copytree(root / "shapes", tmp_path / "shapes")
    for image in (tmp_path / "shapes/val").iterdir():
        image.write_bytes(b"no image")
    changes = {"data.path": str(tmp_path / "shapes")}
    with pytest.raises(UserError, match="None of the images of val images of"):
        evaluate(config_of(root, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists(), "no step was taken"


def test_what_cannot_be_trained_is_said(root, tmp_path):
    def told(**changes):
        with pytest.raises(UserError) as error:
            evaluate(config_of(root, **changes), tmp_path / str(len(changes)) / min(changes))
        return str(error.value)

    assert "fewer than recipe.batch_size=64" in told(**{"recipe.batch_size": 64})
    assert "must be one number: the long side" in told(image_size=(64, 32))
    split = {"devices": 8, "recipe.batch_size": 4}
    assert "recipe.batch_size=4 cannot be split over 8 devices" in told(**split)
    assert "the learning rate would never reach" in told(**{"recipe.warmup_steps": 6})
    assert "protocol='fpn' must be one of vitdet, swin_1x" in told(protocol="fpn")
    too_small = {"protocol": "swin_1x", "recipe.short_edges": (64,)}
    assert "recipe.longest=1333 does not fit into image_size=64" in told(**too_small)
    assert "has positions of one square" in told(**{"recipe.buckets": (64,)})
    missing = told(**{"data.path": str(root)})
    assert "has no annotations of train images" in missing


@pytest.fixture(scope="module")
def finished(root):
    """(folder, results) of an uninterrupted run."""
    return root / "whole", evaluate(config_of(root), root / "whole")


def final_state(folder) -> str:
    (path,) = folder.glob("checkpoints/6/about/metadata")
    return json.loads(path.read_text())["sha256"]


@pytest.mark.slow
def test_results_say_what_was_trained_and_how_well(finished):
    folder, results = finished
    assert json.loads((folder / "results.json").read_text()) == results
    assert (results["metric"], results["protocol"]) == ("box_ap", "detection_vitdet")
    assert results["value"] == results["metrics"]["box"]["AP"]
    scored = [row["step"] for row in rows(folder) if "val/mask_AP" in row]
    assert scored == [4, 6]
    last = rows(folder)[-1]
    parts = ("objectness", "anchors", "classes", "boxes", "masks")
    assert sum(last[f"loss/{part}"] for part in parts) == pytest.approx(last["loss"], rel=1e-5)
    assert all(np.isfinite(row["loss"]) for row in rows(folder))
    assert last["objects_left_out"] == 0
    assert (folder / "figures/detections.png").stat().st_size > 1000
    assert "3 epochs of AdamW at batch 8" in results["formula"]


class Killed(Exception):
    """Stands in for a SIGKILL: nothing is saved any more."""


@pytest.mark.slow
@pytest.mark.parametrize("fate", ["told to stop", "killed"])
def test_an_interrupted_run_goes_on_bit_for_bit(root, finished, monkeypatch, capsys, fate):
    folder, real = root / fate, TrainingLoop._check_finite
    steps = iter(range(100))

    def check_then_end(*arguments):
        if next(steps) == 3:
            if fate == "killed":
                raise Killed
            os.kill(os.getpid(), signal.SIGTERM)
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "_check_finite", check_then_end)
        with pytest.raises(Killed if fate == "killed" else Stopped):
            evaluate(config_of(root), folder)
    assert checkpoint_steps(folder)[-1] < 6
    results = evaluate(config_of(root), folder)
    assert "Resumed at step" in capsys.readouterr().out
    assert final_state(folder) == final_state(finished[0])
    assert results["metrics"]["box"] == finished[1]["metrics"]["box"]


@pytest.mark.slow
def test_one_device_is_eight(root, finished):
    """Losses of the first step are the same, and nearly so those of later ones."""
    eight = evaluate(config_of(root, devices=8), root / "eight")
    for ours, theirs in zip(rows(root / "eight"), rows(finished[0]), strict=True):
        np.testing.assert_allclose(
            ours["loss"], theirs["loss"], rtol=1e-4 if ours["step"] == 1 else 2e-2
        )
    assert eight["metrics"]["steps"] == 6


@pytest.mark.slow
def test_a_frozen_encoder_stays_as_it_is_and_heads_learn(root):
    changes = {"recipe.train_encoder": False, "recipe.epochs": 1.0, "weights": "random"}
    results = evaluate(config_of(root, **changes), root / "frozen")
    assert results["weights"] == "random" and "encoder frozen" in results["formula"]
    found = read_chosen(
        root / "frozen/checkpoints/2",
        lambda tree: {"params": {"encoder": tree["params"]["encoder"]}},
    )
    given = open_pretrained(root / "vit", weights="random").load_params()
    for name in ("patch_embed", "block_1"):
        ours = jax.tree_util.tree_leaves_with_path(given[name])
        theirs = dict(jax.tree_util.tree_leaves_with_path(found["params"]["encoder"][name]))
        for path, leaf in ours:
            np.testing.assert_array_equal(theirs[path], leaf)


@pytest.mark.slow
def test_swin_on_upright_and_on_flat_images(root, monkeypatch):
    """One compiled step and one compiled detector for each of two canvases, resumed or not."""
    saved_run(root / "swin", "moby", name="swin_nano", patch_size=4, image_size=32, window=4)
    upright_and_flat_shapes(root / "sides", train=40, val=6, side=96)
    changes = {
        "checkpoint": str(root / "swin"),
        "data.path": str(root / "sides"),
        "recipe.warmup_steps": 0,
        "recipe.short_edges": (32, 40),
        "recipe.longest": 64,
        "recipe.buckets": (40,),
    }
    shapes = collections.Counter()
    real = Trainer.images

    def traced(trainer, batch):
        shapes[batch["image"].shape] += 1
        return real(trainer, batch)

    monkeypatch.setattr(Trainer, "images", traced)
    with pytest.raises(UserError, match="a Swin keeps its own"):
        evaluate(config_of(root, **changes, **{"recipe.window": 7}), root / "refused")
    results = evaluate(config_of(root, **changes), root / "swin_detected")
    assert results["protocol"] == "detection_swin_1x"
    assert all(np.isfinite(row["loss"]) for row in rows(root / "swin_detected"))
    # Traced once for training and once for detection.
    assert shapes == {(8, 40, 64, 3): 2, (8, 64, 40, 3): 2}
