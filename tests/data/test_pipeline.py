"""Batch t is a function of (seed, t), whatever the workers, processes, start and faults."""

import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict
from numbered_images import KEYS, Numbers, assert_same, run

from repre_jax.data import batches as batches_module
from repre_jax.data.pipeline import evaluation_batches
from repre_jax.data.recipes import ViewRecipe
from repre_jax.data.sources import open_source
from repre_jax.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve noisy PNG images, one of them unreadable."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(12):
        cv2.imwrite(str(root / f"{number:02}.png"), rng.integers(0, 256, (30, 40, 3), np.uint8))
    (root / "05.png").write_bytes(b"")
    return open_source(ConfigDict({"source": "folder", "path": str(root)}), "train")


def test_shapes_types_and_content():
    source = Numbers(20)
    batches = run(source, 0, 5)
    assert len(batches) == 5
    for step, batch in enumerate(batches):
        assert batch.keys() == KEYS
        assert batch["global"].shape == (8, 2, 16, 16, 3) and batch["global"].dtype == np.uint8
        assert batch["local"].shape == (8, 2, 8, 8, 3) and batch["local"].dtype == np.uint8
        for key in KEYS - {"global", "local"}:
            assert batch[key].shape == (8,) and batch[key].dtype == np.int32
        assert (batch["epoch"] == step // 2).all()  # 20 // 8 = 2 steps an epoch
        assert (batch["global"] == batch["index"][:, None, None, None, None]).all()
        assert (batch["local"] == batch["index"][:, None, None, None, None]).all()
        np.testing.assert_array_equal(batch["label"], batch["index"] % 3)
        assert (batch["replaced"] == -1).all()
    plain = run(Numbers(20, labelled=False), 0, 1, recipe=ViewRecipe(crop_scale=(0.3, 1.0)))
    assert "local" not in plain[0] and (plain[0]["label"] == -1).all()


def test_an_epoch_visits_no_image_twice_and_epochs_differ_in_order():
    batches = run(Numbers(67), 0, 24)  # 8 steps an epoch, 3 images dropped
    orders = [np.concatenate([b["index"] for b in batches[e * 8 : e * 8 + 8]]) for e in range(3)]
    for order in orders:
        assert len(set(order)) == 64 and set(order) <= set(range(67))
    assert len({tuple(order) for order in orders}) == 3
    assert len({frozenset(order) for order in orders}) > 1  # the dropped ones change
    other_seed = np.concatenate([b["index"] for b in run(Numbers(67), 0, 8, seed=4)])
    assert (other_seed != orders[0]).mean() > 0.8


def test_crops_change_with_epoch_seed_and_image(folder):
    batches = run(folder, 0, 12, batch_size=4)  # three steps an epoch, all images
    first = {}
    for batch in batches:
        for index, epoch, views in zip(
            batch["index"], batch["epoch"], batch["global"], strict=True
        ):
            first.setdefault(int(index), {})[int(epoch)] = views
    views = first[0]
    assert set(views) == {0, 1, 2, 3}
    assert len({v.tobytes() for v in views.values()}) == 4
    assert (views[0][0] != views[0][1]).any()
    assert (run(folder, 0, 1)[0]["global"] != run(folder, 0, 1, seed=4)[0]["global"]).any()


def test_resuming_gives_the_rest_of_the_uninterrupted_run(folder):
    whole = run(folder, 0, 7)
    for start in (1, 4, 7):
        assert_same(run(folder, start, 7), whole[start:])


def test_workers_change_nothing(folder):
    whole = run(folder, 0, 7)
    assert (np.concatenate([b["replaced"] for b in whole]) == 5).any()
    assert_same(run(folder, 3, 7, workers=2), whole[3:])


@pytest.mark.parametrize("chunk", [1, 3, 32])
def test_chunking_changes_nothing(folder, chunk, monkeypatch):
    whole = run(folder, 0, 3)
    monkeypatch.setattr(batches_module, "_ROWS_PER_CHUNK", chunk)
    assert_same(run(folder, 0, 3), whole)


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_global_batch(folder, processes):
    whole = run(folder, 0, 3)
    parts = [run(folder, 0, 3, process=(p, processes)) for p in range(processes)]
    joined = [
        {key: np.concatenate([part[step][key] for part in parts]) for key in KEYS}
        for step in range(3)
    ]
    assert_same(joined, whole)


def test_unreadable_images_are_replaced_by_the_next_and_reported():
    bad = {4, 5, 19}
    rows = [
        (int(i), int(r))
        for batch in run(Numbers(20, bad), 0, 10)
        for i, r in zip(batch["index"], batch["replaced"], strict=True)
    ]
    assert {index for index, _ in rows}.isdisjoint(bad)
    assert {(i, r) for i, r in rows if r >= 0} == {(6, 4), (6, 5), (0, 19)}
    good = run(Numbers(20), 0, 10)
    wanted = [int(i) for batch in good for i in batch["index"]]
    assert [r if r >= 0 else i for i, r in rows] == wanted  # nothing else moved


def test_stand_in_is_cropped_on_its_own(folder):
    # Image 6 stands in for 5 and appears itself in the same epoch: two different crops of it.
    (batch,) = run(folder, 0, 1, batch_size=12)
    stand_in, itself = (
        np.flatnonzero((batch["index"] == 6) & (batch["replaced"] == r)) for r in (5, -1)
    )
    assert len(stand_in) == len(itself) == 1
    assert (batch["global"][stand_in] != batch["global"][itself]).any()


def test_nothing_readable_is_an_error_not_a_loop():
    with pytest.raises(UserError, match=r"None of the 10 images of numbers .*made so"):
        run(Numbers(10, range(10)))


def test_errors_of_a_worker_are_what_they_are(tmp_path):
    for number in range(8):
        (tmp_path / f"{number}.png").write_bytes(b"no image")
    source = open_source(ConfigDict({"source": "folder", "path": str(tmp_path)}), "train")
    with pytest.raises(UserError, match="None of the 8 images"):
        run(source, workers=1)


def test_impossible_batches_are_refused():
    with pytest.raises(UserError, match=r"10 images, fewer than one batch of 16"):
        run(Numbers(10), batch_size=16)
    with pytest.raises(UserError, match=r"9, which 2 processes cannot share"):
        run(Numbers(10), batch_size=9, process=(0, 2))


def evaluate(source, **options):
    options = {"batch_size": 4, "process_index": 0, "process_count": 1} | options
    with evaluation_batches(source, image_size=8, **options) as batches:
        return list(batches)


def test_evaluation_visits_everything_once_in_order():
    batches = evaluate(Numbers(10, bad={3}))
    assert len(batches) == 3
    joined = {key: np.concatenate([b[key] for b in batches]) for key in batches[0]}
    np.testing.assert_array_equal(joined["index"], [*range(10), -1, -1])
    np.testing.assert_array_equal(joined["mask"], [i != 3 and i < 10 for i in range(12)])
    mask = joined["mask"]
    np.testing.assert_array_equal(joined["label"][mask], joined["index"][mask] % 3)
    assert (joined["label"][~mask] == -1).all()
    assert joined["image"].shape == (12, 8, 8, 3) and joined["image"].dtype == np.uint8
    assert (joined["image"][mask] == joined["index"][mask][:, None, None, None]).all()


def test_evaluation_is_shared_by_processes():
    whole = evaluate(Numbers(10))
    halves = [evaluate(Numbers(10), process_index=p, process_count=2) for p in range(2)]
    joined = [
        {key: np.concatenate([one[key], two[key]]) for key in one}
        for one, two in zip(*halves, strict=True)
    ]
    assert_same(joined, whole)
