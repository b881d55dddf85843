"""Linear segmentation: its loss by hand, and the whole task, which resumes exactly."""

import json
import signal

import jax
import numpy as np
import pytest
from compilations import compilations
from dense_sets import camvid_folder, scene
from tiny import saved_run

from repre_jax.config_files import read_config
from repre_jax.data.segmentation.label_maps import VOID
from repre_jax.data.segmentation.layouts import open_segmentation
from repre_jax.errors import UserError
from repre_jax.evaluate import evaluate
from repre_jax.evaluation import defaults
from repre_jax.evaluation.segmentation import linear
from repre_jax.evaluation.segmentation.probe import SegmentationProbe, pixel_logits, pixel_loss
from repre_jax.evaluation.segmentation.views import training_order, whole_batches
from repre_jax.runs.interruption import Stopped
from repre_jax.runs.loop import scalars
from repre_jax.schedules import Clock

RATES = (0.01, 0.3)


def test_loss_is_that_of_a_loop_and_void_has_none():
    rng = np.random.default_rng(0)
    head = {"kernel": rng.normal(size=(3, 4)), "bias": rng.normal(size=4)}
    features = rng.normal(size=(2, 2, 3, 3)).astype(np.float32)
    labels = rng.integers(4, size=(2, 4, 6)).astype(np.uint8)
    labels[0, :2] = VOID
    logits = np.asarray(pixel_logits(head, features, (4, 6)))
    losses = []
    for place in np.argwhere(labels != VOID):
        x = logits[tuple(place)].astype(np.float64)
        losses.append(np.log(np.exp(x).sum()) - x[labels[tuple(place)]])
    assert float(pixel_loss(head, features, labels)) == pytest.approx(np.mean(losses), rel=1e-5)
    # Half-pixel bilinear: in the middle of two patches the mean of both.
    line = np.asarray(pixel_logits(head, features[:1, :1, :2], (1, 4)))[0, 0]
    own = features[0, 0, :2] @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(line[1], 0.75 * own[0] + 0.25 * own[1], rtol=1e-4)
    assert float(pixel_loss(head, features, np.full_like(labels, VOID))) == 0


def test_every_epoch_has_an_order_of_its_own():
    order = training_order(7, batch_size=3, steps=5, seed=0).reshape(5, 3)
    for epoch in (order[:2], order[2:4]):
        assert len(set(epoch.ravel().tolist())) == 6
    assert order[:2].tolist() != order[2:4].tolist()
    longer = training_order(7, batch_size=3, steps=8, seed=0)
    np.testing.assert_array_equal(longer[:15], order.ravel())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("linear_segmentation")
    camvid_folder(root / "set", train=8)
    return saved_run(root / "dino", "dino", steps=(3,)).folder


def config_of(run, **changes):
    config = read_config("eval/linear_segmentation:smoke")
    config.checkpoint, config.data.path = str(run), str(run.parent / "set")
    config.update({"image_size": (24, 32), "train_batch_size": 8, "learning_rates": RATES})
    config.update({"epochs": 6, "log_every_steps": 1, "blocks": (0, -1), "pictures": 3})
    config.update_from_flattened_dict(changes)
    return config


def state_of(folder):
    return json.loads((folder / "checkpoints/6/about/metadata").read_text())["sha256"]


def test_whole_task(run, tmp_path):
    with compilations() as programs:
        whole = evaluate(config_of(run), tmp_path / "whole")
    assert all(programs[name] == 1 for name in ("train_step", "confusions", "predictions"))
    found = whole["metrics"]["blocks"]
    assert set(found) == {"0", "3"} and whole["value"] == found["3"]["mean_iou"]
    assert len(found["0"]["by_learning_rate"]) == 2
    best = max(found["0"]["by_learning_rate"], key=lambda x: x["mean_iou"])
    assert best["mean_iou"] == found["0"]["mean_iou"] > 0.3, "classes are colours"
    assert "best of 2 learning rates" in whole["formula"]
    assert len(list((tmp_path / "whole" / "figures").glob("prediction-*.png"))) == 3


@pytest.mark.parametrize("order", [None, np.array([2, 1, 0, 1], np.int32)])
def test_nothing_is_learnt_from_what_cannot_be_read(tmp_path, order):
    data = defaults.segmentation_data()
    data.path = str(camvid_folder(tmp_path, train=3))
    (tmp_path / "images/train/0016E5_07002.png").write_bytes(b"no image")
    source = open_segmentation(data, 3)[0]
    options = {"image_size": (24, 32), "batch_size": 4, "workers": 0, "order": order}
    with whole_batches(source, **options) as batches:
        (batch,) = batches
    if order is None:
        assert batch["mask"].tolist() == [True, False, True, False]
        assert (batch["label"][1] == VOID).all()
        return
    assert batch["mask"].all() and batch["index"].tolist() == [2, 2, 0, 2]
    assert batch["replaced"].tolist() == [-1, 1, -1, 1]
    np.testing.assert_array_equal(batch["image"][1], scene(2)[0])


@pytest.mark.slow
def test_it_resumes_exactly(run, tmp_path, monkeypatch, capsys):
    whole = evaluate(config_of(run), tmp_path / "whole")

    def stop_at_three(step, metrics):
        if step == 3:
            signal.raise_signal(signal.SIGTERM)
        return scalars(step, metrics)

    loop = linear.TrainingLoop
    with monkeypatch.context() as patch:
        patch.setattr(
            linear, "TrainingLoop", lambda **parts: loop(**parts | {"to_host": stop_at_three})
        )
        with pytest.raises(Stopped):
            evaluate(config_of(run), tmp_path / "stopped")
    resumed = evaluate(config_of(run), tmp_path / "stopped")
    assert "Resumed at step" in capsys.readouterr().out
    assert resumed["metrics"] == whole["metrics"]
    assert state_of(tmp_path / "stopped") == state_of(tmp_path / "whole")


@pytest.mark.slow
def test_heads_do_not_see_each_other(run):
    """A rate's head is the same beside another rate as alone."""
    from repre_jax.evaluation.checkpoint import open_pretrained

    pretrained = open_pretrained(run)
    params = pretrained.load_params()
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (2, 16, 16, 3), np.uint8),
        "label": rng.integers(3, size=(2, 16, 16)).astype(np.uint8),
        "index": np.arange(2, dtype=np.int32),
    }
    kernels = []
    for rates in ((0.1,), (0.3, 0.1)):
        probe = SegmentationProbe(pretrained.encoder, (3,), ("3",), Clock(1, 4), 3, rates, 1, 0)
        state = probe.init([pretrained.encoder.width])
        state, metrics = jax.jit(probe.train_step)(params, state, batch)
        assert np.isfinite(float(metrics["loss"]))
        kernels.append(np.asarray(state.heads["3"]["kernel"][-1]))
    np.testing.assert_allclose(*kernels, rtol=1e-6)


def test_mistakes(run):
    for changes, words in (
        ({"train_batch_size": 16}, "8 training images, fewer than train_batch_size=16"),
        ({"train_batch_size": 4}, "cannot be split over 8 devices"),
        ({"learning_rates": ()}, "learning_rates is empty"),
        ({"epochs": 0}, "epochs=0 must be at least 1"),
    ):
        with pytest.raises(UserError, match=words):
            evaluate(config_of(run, **changes), None)
