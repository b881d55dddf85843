"""SETR as a whole: steps, resuming, devices, frozen and random encoders, mistakes, pictures."""

import functools
import json
import signal

import cv2
import jax
import numpy as np
import pytest
from compilations import compilations
from dense_sets import camvid_folder
from tiny import saved_run

from repre_jax.config_files import read_config
from repre_jax.data.segmentation.label_maps import VOID
from repre_jax.errors import UserError
from repre_jax.evaluate import evaluate
from repre_jax.evaluation.checkpoint import open_pretrained
from repre_jax.evaluation.segmentation.setr import measure
from repre_jax.evaluation.segmentation.setr.step import (
    Segmenter,
    pixel_cross_entropy,
    poly,
    train_step,
)
from repre_jax.models.setr import SETRHead
from repre_jax.runs.interruption import Stopped
from repre_jax.runs.loop import scalars
from repre_jax.sharding import by_row, make_mesh, replicated


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("setr")
    camvid_folder(root / "set", train=8, val=3)
    return saved_run(root / "dino", "dino", steps=(3,)).folder


def config_of(run, **changes):
    config = read_config("segment/camvid_setr_vits:smoke")
    config.checkpoint, config.data.path = str(run), str(run.parent / "set")
    config.update({"image_size": 16, "stride": 16, "batch_size": 8, "learning_rate": 0.01})
    config.update_from_flattened_dict(changes)
    return config


def state_of(folder, step=4):
    return json.loads((folder / f"checkpoints/{step}/about/metadata").read_text())["sha256"]


@pytest.mark.slow
def test_whole_task(run, tmp_path):
    with compilations() as programs:
        whole = evaluate(config_of(run), tmp_path / "whole")
    made = ("train_step", "logits", "_added", "_probabilities")
    assert {name: programs[name] for name in made} == dict.fromkeys(made, 1)
    assert whole["protocol"] == "setr_naive" and "encoder trained" in whole["formula"]
    assert whole["value"] == whole["metrics"]["last"]["mean_iou"]
    assert whole["metrics"]["best"] == {"mean_iou": whole["value"], "step": 4}
    picture = cv2.imread(str(tmp_path / "whole" / "figures" / "prediction-00.png"))
    assert picture.shape == (24, 4 * 32 + 3 * 4, 3)


@pytest.mark.slow
def test_it_resumes_exactly(run, tmp_path, monkeypatch, capsys):
    whole = evaluate(config_of(run), tmp_path / "whole")

    def stop_at_two(step, metrics):
        if step == 2:
            signal.raise_signal(signal.SIGTERM)
        return scalars(step, metrics)

    loop = measure.TrainingLoop
    with monkeypatch.context() as patch:
        patch.setattr(
            measure, "TrainingLoop", lambda **parts: loop(**parts | {"to_host": stop_at_two})
        )
        with pytest.raises(Stopped):
            evaluate(config_of(run), tmp_path / "stopped")
    resumed = evaluate(config_of(run), tmp_path / "stopped")
    assert "Resumed at step" in capsys.readouterr().out
    assert state_of(tmp_path / "stopped") == state_of(tmp_path / "whole")
    assert resumed["metrics"] == whole["metrics"]


@pytest.mark.slow
def test_frozen_random_and_multi_scale(run, tmp_path):
    """With MLA's head in the compute type of accelerators."""
    changes = {"frozen": True, "weights": "random", "scales": (0.5,)}
    changes |= {"head": "mla", "compute_dtype": "bfloat16"}
    results = evaluate(config_of(run, **changes), tmp_path / "results")
    assert results["protocol"] == "setr_mla" and results["weights"] == "random"
    assert "encoder frozen" in results["formula"]
    assert set(results["metrics"]) >= {"last", "multi_scale", "best"}


MLA = SETRHead("mla", (0, 1, 2, 3), (0, 1, 2, 3), 3)


def segmenter_of(encoder, **changes):
    parts = {
        "encoder": encoder,
        "head": SETRHead("naive", (3,), (1,), 3),
        "crop": (16, 16),
        "optimizer": "sgd",
        "learning_rate": 0.01,
        "head_rate": 10.0,
        "end_learning_rate": 1e-4,
        "total_steps": 10,
        "auxiliary_weight": 0.4,
        "loss_over": "all",
        "frozen": False,
        "photometric": True,
        "seed": 0,
    }
    return Segmenter(**parts | changes)


def batch_of(rows):
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (rows, 16, 16, 3), np.uint8),
        "label": rng.choice([0, 1, 2, VOID], size=(rows, 16, 16)).astype(np.uint8),
        "inside": np.full((rows, 2), 16, np.int32),
        "index": np.arange(rows, dtype=np.int32),
    }


@pytest.fixture(scope="module")
def pretrained(run):
    opened = open_pretrained(run)
    return opened.encoder, opened.load_params()


def stepped(segmenter, params, batch, devices=1):
    mesh = make_mesh(devices)
    step = jax.jit(
        functools.partial(train_step, segmenter),
        in_shardings=(replicated(mesh), by_row(mesh)),
        out_shardings=replicated(mesh),
    )
    return step(jax.jit(segmenter.init)(params), batch)


@pytest.mark.slow
def test_one_device_is_eight(pretrained):
    encoder, params = pretrained
    one, eight = (stepped(segmenter_of(encoder), params, batch_of(8), n) for n in (1, 8))
    for a, b in zip(*map(jax.tree.leaves, (one, eight)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * max(1e-3, np.abs(a).max()))


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["naive", "mla"])
def test_learning_rates_are_those_of_the_repositorys_groups(pretrained, variant):
    """It calls MLA's norms, lateral convolutions and sums the backbone's."""
    encoder, params = pretrained
    head = SETRHead("naive", (3,), (1,), 3) if variant == "naive" else MLA
    segmenter = segmenter_of(encoder, head=head)
    before = jax.jit(segmenter.init)(params)
    after, metrics = stepped(segmenter, params, batch_of(8))
    slow = {"encoder"}
    if variant == "mla":
        slow |= {name for name in before.params["head"] if name[:4] in ("norm", "late", "sum_")}
        assert len(slow) == 1 + 4 + 2 * 8
    for part in before.params:
        for module, own in before.params[part].items():
            rate = 0.01 if slow & {part, module} else 0.1
            moved = jax.tree.map(
                lambda p, q, m, rate=rate: np.abs((p - q) - rate * m).max(),
                own,
                after.params[part][module],
                after.opt_state.trace[part][module],
            )
            assert max(map(float, jax.tree.leaves(moved))) < 1e-5, (part, module)
    assert float(metrics["loss"]) > float(metrics["loss/main"]) > 0


@pytest.mark.slow
def test_frozen_encoder_and_steps_that_are_not_finite(pretrained):
    encoder, params = pretrained
    before = jax.jit(segmenter_of(encoder).init)(params)
    frozen, _ = stepped(segmenter_of(encoder, frozen=True), params, batch_of(8))
    assert set(frozen.opt_state.trace) == {"head"}
    jax.tree.map(np.testing.assert_array_equal, frozen.params["encoder"], before.params["encoder"])
    broken = jax.tree.map(lambda x: np.full_like(x, np.nan), params)
    state, metrics = stepped(segmenter_of(encoder, frozen=True), broken, batch_of(8))
    assert int(metrics["nonfinite_in_a_row"]) == 1 == int(state.step)
    assert np.isfinite(jax.tree.leaves(state.params["head"])[0]).all()


@pytest.mark.slow
def test_first_step_of_adamw(pretrained):
    """It goes by the sign of the gradient, and decays all but norms and positions."""
    encoder, params = pretrained
    segmenter = segmenter_of(encoder, optimizer="adamw", learning_rate=1e-3)
    before = jax.jit(segmenter.init)(params)
    after, _ = stepped(segmenter, params, batch_of(8))
    gradients = jax.tree.map(lambda m: m / np.float32(0.1), after.opt_state[0].mu)
    for part, rate in {"encoder": 1e-3, "head": 1e-2}.items():
        for path, decay in (("norm", 0.0), ("kernel", 0.01)):
            moved = [
                np.abs((p - q) / rate - (g / (np.abs(g) + 1e-8) + decay * p)).max()
                for (keys, p), q, g in zip(
                    jax.tree.leaves_with_path(before.params[part]),
                    jax.tree.leaves(after.params[part]),
                    jax.tree.leaves(gradients[part]),
                    strict=True,
                )
                if path in jax.tree_util.keystr(keys)
            ]
            assert moved and max(map(float, moved)) < 1e-3


def test_loss_over_all_pixels_and_over_those_with_a_class():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    labels = rng.choice([0, 2, 4, VOID], size=(2, 3, 4)).astype(np.uint8)
    losses = [
        np.log(np.exp(logits[place]).sum()) - logits[place][labels[place]]
        for place in map(tuple, np.argwhere(labels != VOID))
    ]
    assert 0 < len(losses) < labels.size
    for over, count in (("all", labels.size), ("valid", len(losses))):
        found = float(pixel_cross_entropy(logits, labels, over))
        assert found == pytest.approx(np.sum(losses) / count, rel=1e-5)
    assert float(pixel_cross_entropy(logits, np.full_like(labels, VOID), "valid")) == 0


def test_poly_has_a_floor_that_both_groups_share():
    """Five iterations by mmcv's formula."""
    for start in (0.01, 0.1):
        schedule = poly(start, 1e-4, 40_000)
        for t in (0, 1, 10_000, 39_999, 40_000):
            expected = (start - 1e-4) * (1 - t / 40_000) ** 0.9 + 1e-4
            assert float(schedule(t)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("head", ["naive", "mla"])
def test_a_weight_of_0_trains_no_auxiliary_head(run, monkeypatch, head):
    built = measure.build

    class Enough(Exception):
        pass

    def noted(evaluation):
        raise Enough(built(evaluation)[0])

    monkeypatch.setattr(measure, "build", noted)
    for weight, there in ((0.0, False), (0.4, True)):
        with pytest.raises(Enough) as told:
            evaluate(config_of(run, head=head, auxiliary_weight=weight), None)
        (segmenter,) = told.value.args
        assert bool(segmenter.head.auxiliary) == there


def test_mistakes(run):
    for changes, words in (
        ({"head": "fcn"}, "head='fcn' must be one of naive, pup, mla"),
        ({"optimizer": "lamb"}, "optimizer='lamb' must be one of sgd, adamw"),
        ({"loss_over": "some"}, "loss_over='some' must be one of all, valid"),
        ({"stride": 32}, "stride=32 leaves gaps between windows of 16"),
        ({"scale": (2.0, 0.5)}, "must be the lowest, then the highest"),
        ({"scale": (1.0,)}, "must be two numbers"),
        ({"base_size": (512,)}, r"base_size=\(512,\) must be two numbers, or \(\)"),
        ({"scales": ()}, "scales is empty"),
        ({"frozen": True, "drop_path": 0.1}, "a frozen encoder is seen as it is"),
        ({"train_batch_size": 16}, "8 training images, fewer than train_batch_size=16"),
        ({"train_batch_size": 4}, "cannot be split over 8 devices"),
        ({"blocks": (1, 2)}, "head=naive reads one block"),
        ({"auxiliary_blocks": (1,), "auxiliary_weight": 0.0}, "auxiliary_weight=0 has no such"),
        ({"blocks": (9,)}, "blocks has block 9: there are blocks 0 to 3"),
        ({"image_size": 20, "stride": 10}, "is not a multiple of 8"),
        ({"max_share": 2.0}, "max_share=2.0 must be at least 0 and at most 1"),
    ):
        with pytest.raises(UserError, match=words):
            evaluate(config_of(run, **changes), None)
