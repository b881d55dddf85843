"""Batch t is a function of (seed, t), whatever the workers, processes, start and faults."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import cv2
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from repre_jax.data import batches as batches_module
from repre_jax.data.decode import BadImage
from repre_jax.data.pipeline import evaluation_batches, prefetch_to_device, training_batches
from repre_jax.data.recipes import ViewRecipe
from repre_jax.data.source import Source
from repre_jax.data.sources import open_source
from repre_jax.errors import UserError

RECIPE = ViewRecipe(crop_scale=(0.3, 1.0), local_crops=2, local_size=8)
KEYS = {"global", "local", "index", "epoch", "label", "replaced"}


class Numbers(Source):
    """Image i shows only the number i, so that a row tells which image it came from."""

    description = "numbers"
    fingerprint = "0"

    def __init__(self, size, bad=(), labelled=True):
        self.size, self.bad = size, frozenset(bad)
        if labelled:
            self.labels = np.arange(size, dtype=np.int32) % 3

    def __len__(self):
        return self.size

    def name_of(self, index):
        return f"image {index}"

    def read(self, index):
        if index in self.bad:
            raise BadImage(self.name_of(index), "made so")
        return np.full((9, 12, 3), index, np.uint8)


def run(source, start=0, stop=6, *, batch_size=8, seed=3, workers=0, process=(0, 1), recipe=RECIPE):
    with training_batches(
        source,
        recipe,
        image_size=16,
        batch_size=batch_size,
        seed=seed,
        start_step=start,
        total_steps=stop,
        workers=workers,
        process_index=process[0],
        process_count=process[1],
    ) as batches:
        return list(batches)


def assert_same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


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


# To the device


def sharding():
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    return jax.NamedSharding(mesh, jax.P("data"))


def open_batches(source=None, stop=6):
    return training_batches(
        source or Numbers(20),
        RECIPE,
        image_size=16,
        batch_size=8,
        seed=3,
        start_step=0,
        total_steps=stop,
        workers=0,
    )


def test_prefetch_moves_the_same_batches_onto_every_device():
    with prefetch_to_device(open_batches(), sharding()) as prefetched:
        on_device = list(prefetched)
    for batch in on_device:
        assert isinstance(batch["replaced"], np.ndarray)
        assert batch["global"].sharding.is_equivalent_to(sharding(), 5)
        assert len(batch["index"].sharding.device_set) == len(jax.devices())
    assert_same([{k: np.asarray(v) for k, v in b.items()} for b in on_device], run(Numbers(20)))


def test_prefetch_counts_the_time_that_the_consumer_waited():
    def slow():
        for number in range(3):
            time.sleep(0.1)
            yield {"x": np.full(8, number)}

    with prefetch_to_device(slow(), sharding()) as prefetched:
        assert [int(np.asarray(batch["x"])[0]) for batch in prefetched] == [0, 1, 2]
        assert 0.25 < prefetched.waited_seconds < 2
    ready = prefetch_to_device(iter([{"x": np.zeros(8)}] * 2), sharding())
    time.sleep(0.3)
    next(ready)
    assert ready.waited_seconds < 0.05
    ready.close()


def test_prefetch_raises_what_the_batches_raise_and_then_is_over():
    prefetched = prefetch_to_device(open_batches(Numbers(10, range(10))), sharding())
    with pytest.raises(UserError, match="None of the 10 images"):
        next(prefetched)
    with pytest.raises(StopIteration):
        next(prefetched)


def test_closing_early_stops_the_threads():
    before = set(threading.enumerate())
    for leave in ("close", "forget"):
        prefetched = prefetch_to_device(open_batches(stop=10_000), sharding())
        next(prefetched)
        if leave == "close":
            prefetched.close()
            prefetched.close()
            with pytest.raises(StopIteration):
                next(prefetched)
        del prefetched
        deadline = time.time() + 10
        while set(threading.enumerate()) - before and time.time() < deadline:
            time.sleep(0.05)
        assert not set(threading.enumerate()) - before


CHILD = """
    import os, sys, time
    from repre_jax.data.pipeline import prefetch_to_device, training_batches
    from repre_jax.data.recipes import ViewRecipe
    from repre_jax.data.sources import open_source
    from ml_collections import ConfigDict
    import jax

    def main():
        source = open_source(ConfigDict({"source": "digits"}), "train")
        batches = training_batches(
            source, ViewRecipe(crop_scale=(0.3, 1.0)), image_size=16, batch_size=8, seed=0,
            start_step=0, total_steps=10**6, workers=1,
        )
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        prefetched = prefetch_to_device(batches, device)
        next(prefetched)
        workers = [int(line) for line in os.popen(f"pgrep -P {os.getpid()} -f spawn_main")]
        print(*workers, flush=True)
        if sys.argv[1] == "raise":
            raise RuntimeError("on purpose")
        time.sleep(60)

    if __name__ == "__main__":
        main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["raise", "SIGTERM", "SIGKILL"])
def test_no_worker_outlives_its_parent(end, tmp_path):
    script = tmp_path / "child.py"
    script.write_text(textwrap.dedent(CHILD))
    environment = os.environ | {"PYTHONPATH": os.getcwd(), "XLA_FLAGS": ""}
    with subprocess.Popen(
        [sys.executable, script, end],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as child:
        workers = [int(number) for number in child.stdout.readline().split()]
        assert workers
        if end != "raise":
            child.send_signal(getattr(signal, end))
        assert child.wait(timeout=30) != 0
    deadline = time.time() + 10
    while any(os.path.exists(f"/proc/{w}/cmdline") for w in workers) and time.time() < deadline:
        time.sleep(0.1)
    assert not any(os.path.exists(f"/proc/{w}/cmdline") for w in workers)
