"""Batches reach the devices unchanged, waiting is measured, and nothing is left running."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import jax
import numpy as np
import pytest
from numbered_images import RECIPE, Numbers, assert_same, run

from repre_jax.data.pipeline import prefetch_to_device, training_batches
from repre_jax.errors import UserError


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
            time.sleep(0.3)
            yield {"x": np.full(8, number)}

    with prefetch_to_device(slow(), sharding()) as prefetched:
        assert [int(np.asarray(batch["x"])[0]) for batch in prefetched] == [0, 1, 2]
        assert prefetched.waited_seconds > 0.5
    ready = prefetch_to_device(iter([{"x": np.zeros(8)}] * 2), sharding())
    time.sleep(0.3)
    next(ready)
    assert ready.waited_seconds < 0.3
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
        deadline = time.time() + 60
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
        time.sleep(600)

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
        assert child.wait(timeout=300) != 0
    deadline = time.time() + 60
    while any(os.path.exists(f"/proc/{w}/cmdline") for w in workers) and time.time() < deadline:
        time.sleep(0.1)
    assert not any(os.path.exists(f"/proc/{w}/cmdline") for w in workers)
