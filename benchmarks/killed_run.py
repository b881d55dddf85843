"""Runs main.py and kills it, with SIGKILL, at a moment of one's choosing.

    python -m benchmarks.killed_run <moment> <number> --config=... --workdir=...

``number`` says which occurrence of the moment is meant, from 1. The library has no hooks for this:
the function in question is replaced here, by one that does the same and then ends the process.
``resume_exact`` uses it.
"""

import contextlib
import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from repre_jax import command_line, pretrain
from repre_jax.data.device.prefetch import DevicePrefetcher
from repre_jax.evaluation import online
from repre_jax.runs.checkpoints import Checkpoints

_POLL_SECONDS = 1e-4


def die() -> None:
    """Ends this process as the kernel's memory killer or a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


def after_start(number: int) -> None:
    """The run folder, data and state are there; no step was taken."""
    del number  # there is one start

    def train(*args, **kwargs):
        die()

    pretrain.train = train


def between_steps(number: int) -> None:
    """Step ``number`` is done or being done; the host asks for the next batch."""

    def asked(count: int) -> None:
        if count == number + 1:
            die()

    _watch_batches(asked, lambda count: None)


def in_a_step(number: int) -> None:
    """Half through step ``number``, by the time that the steps before took without their input."""
    given, seconds = [], []

    def asked(count: int) -> None:
        if given:
            seconds.append(time.perf_counter() - given[-1])

    def got(count: int) -> None:
        given.append(time.perf_counter())
        if count == number:
            threading.Timer(statistics.median(seconds) / 2, die).start()

    _watch_batches(asked, got)


def in_a_save(number: int) -> None:
    """Checkpoint ``number`` is being written: some of its files exist, its folder has no name."""
    save = Checkpoints.save
    calls = []

    def watched_save(self, *args, **kwargs):
        calls.append(None)
        if len(calls) == number:
            # In a thread of its own: saving goes on in the background after ``save`` returns.
            threading.Thread(
                target=_die_when_being_written, args=(self.folder,), daemon=True
            ).start()
        return save(self, *args, **kwargs)

    Checkpoints.save = watched_save


def in_an_evaluation(number: int) -> None:
    """Evaluation ``number`` has its features; their neighbours are about to be looked for."""
    knn_accuracy = online.knn_accuracy
    calls = []

    def watched(*args, **kwargs):
        calls.append(None)
        if len(calls) == number:
            die()
        return knn_accuracy(*args, **kwargs)

    online.knn_accuracy = watched


MOMENTS: dict[str, Callable[[int], None]] = {
    "after the start": after_start,
    "in a step": in_a_step,
    "in a save": in_a_save,
    "between steps": between_steps,
    "in an evaluation": in_an_evaluation,
}


def _watch_batches(asked: Callable[[int], None], got: Callable[[int], None]) -> None:
    """Calls ``asked(n)`` when the n-th batch is wanted and ``got(n)`` when it is there."""
    next_batch = DevicePrefetcher.__next__
    calls = []

    def watched(self):
        calls.append(None)
        asked(len(calls))
        batch = next_batch(self)
        got(len(calls))
        return batch

    DevicePrefetcher.__next__ = watched


def _die_when_being_written(folder: Path) -> None:
    while True:
        # The folder gets its name, and so vanishes, at any moment.
        with contextlib.suppress(FileNotFoundError):
            for unfinished in folder.glob("*tmp*"):
                if any(path.is_file() for path in unfinished.rglob("*")):
                    die()
        time.sleep(_POLL_SECONDS)


if __name__ == "__main__":
    MOMENTS[sys.argv[1]](int(sys.argv[2]))
    sys.exit(command_line.main([sys.argv[0], *sys.argv[3:]]))
