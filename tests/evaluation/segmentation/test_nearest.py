"""Dense nearest neighbours against the authors' code, and the whole task."""

import numpy as np
import pytest
from compilations import compilations
from dense_sets import camvid_folder
from golden.cases_dense import DENSE, DENSE_NEIGHBOURS, DENSE_TEMPERATURE, draws, pairs
from golden.compare import FOLDER
from tiny import saved_run

from repre_jax.config_files import read_config
from repre_jax.data.segmentation.label_maps import VOID
from repre_jax.errors import UserError
from repre_jax.evaluate import evaluate
from repre_jax.evaluation.knn import nearest
from repre_jax.evaluation.segmentation.memory import (
    classes_of_pixels,
    patch_shares,
    sampled_patches,
)
from repre_jax.evaluation.segmentation.nearest import neighbours_votes

GOLDEN = dict(np.load(FOLDER / "dense.npz"))
GRID = (DENSE["side"],) * 2


def test_memory_and_votes_are_those_of_the_official_code():
    features, labels = pairs("train")
    shares = np.asarray(patch_shares(labels, grid=GRID, classes=DENSE["classes"]))
    each = DENSE["memory"] // DENSE["train"]
    chosen = [sampled_patches(s, d, each) for s, d in zip(shares, draws(), strict=True)]
    for ours, theirs in zip(chosen, GOLDEN["dense/sampled"], strict=True):
        assert set(ours) == set(theirs)
    bank = np.concatenate([f[c] for f, c in zip(features, chosen, strict=True)])
    kept = np.concatenate([s[c] for s, c in zip(shares, chosen, strict=True)])
    queries, _ = pairs("val")
    found = nearest(
        bank,
        np.arange(len(bank), dtype=np.int32),
        queries.reshape(-1, DENSE["width"]),
        DENSE_NEIGHBOURS,
    )
    votes = neighbours_votes(*found, kept, DENSE_TEMPERATURE)
    votes = np.asarray(votes).reshape(len(queries), -1, DENSE["classes"])
    np.testing.assert_allclose(votes, GOLDEN["dense/votes"], atol=1e-5)
    size = (DENSE["side"] * DENSE["patch"],) * 2
    classes = classes_of_pixels(votes, grid=GRID, size=size)
    np.testing.assert_array_equal(classes, GOLDEN["dense/classes"])


def test_void_votes_for_nothing_and_is_not_remembered():
    labels = np.zeros((1, 4, 8), np.uint8)
    labels[:, :, 4:], labels[:, 0, 0] = VOID, 1
    shares = np.asarray(patch_shares(labels, grid=(1, 2), classes=2))
    np.testing.assert_allclose(shares[0], [[15 / 16, 1 / 16], [0, 0]])
    np.testing.assert_array_equal(sampled_patches(shares[0], np.ones(2), 2), [0])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("dense_knn")
    camvid_folder(root / "set")
    return saved_run(root / "dino", "dino", steps=(3,)).folder


def config_of(run, **changes):
    config = read_config("eval/dense_knn:smoke")
    config.checkpoint, config.data.path = str(run), str(run.parent / "set")
    config.update({"image_size": (24, 32), "blocks": (0, -1), "memory": 48, "neighbours": 5})
    config.update_from_flattened_dict(changes)
    return config


def test_whole_task(run, tmp_path):
    with compilations() as programs:
        results = evaluate(config_of(run, batch_size=2, devices=1), tmp_path / "one")
    assert programs["maps_of"] == 1
    assert max(programs[name] for name in ("neighbours_votes", "classes_of_pixels")) <= 1
    assert programs["_merge_chunk"] <= 2  # features of one block, and of two side by side
    found = results["metrics"]["blocks"]
    assert set(found) == {"0", "3", "fused"}
    assert results["value"] == found["3"]["mean_iou"]
    assert results["metrics"]["patches"] == 48 and "24 x 32" in results["formula"]
    # Classes are colours here: what the first block knows is enough.
    assert 0.5 < found["0"]["accuracy"] <= 1
    assert found["0"]["iou"]["tree"] is None
    assert len(list((tmp_path / "one" / "figures").glob("prediction-*.png"))) == 5


@pytest.mark.slow
def test_one_device_is_eight(run, tmp_path):
    one, eight = (
        evaluate(config_of(run, batch_size=batch, devices=n), tmp_path / str(n))["metrics"]
        for n, batch in ((1, 2), (8, 8))
    )
    for name, found in one["blocks"].items():
        assert eight["blocks"][name]["mean_iou"] == pytest.approx(found["mean_iou"], abs=2e-3)


def test_mistakes(run):
    for changes, words in (
        ({"memory": 5}, "memory=5 patches are fewer than the 6 training images"),
        ({"data.path": ""}, "data.path is empty"),
        ({"image_size": (20, 32)}, "is not a multiple of 8"),
        ({"neighbours": 0}, "neighbours=0 must be at least 1"),
    ):
        with pytest.raises(UserError, match=words):
            evaluate(config_of(run, **changes), None)


def test_what_cannot_be_read_is_told(run, tmp_path):
    root = camvid_folder(tmp_path / "set")
    (root / "labels" / "val" / "0016E5_07004.png").write_bytes(b"no map")
    changes = {"data.path": str(root), "blocks": (0,), "batch_size": 2, "devices": 1}
    results = evaluate(config_of(run, **changes), tmp_path / "results")
    (reasons,) = results["unreadable"].values()
    assert "cannot identify image file" in next(iter(reasons.values()))
