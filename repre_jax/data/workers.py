"""Worker processes: they end with their parent, and the parent is told of their sudden end."""

import contextlib
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn, TypeVar

from repre_jax.errors import UserError
from repre_jax.stop_signals import STOP_SIGNALS

Element = TypeVar("Element")

_PARENT_CHECK_SECONDS = 1.0
_WORKER_CHECK_SECONDS = 2.0
_GRAIN_SAYS = "Worker process was terminated unexpectedly"


class WorkerKilled(UserError):
    """A worker process has ended without being asked to.

    Threads may wait for it for ever; ``happened`` tells whoever ends this process.
    """

    happened = False

    def __init__(self):
        type(self).happened = True
        super().__init__(
            "A process that reads images was killed, by the system for want of memory perhaps: "
            "lower data.workers or free memory; the same command goes on."
        )


def start_worker(worker: int, workers: int) -> None:
    """Makes a worker process end with its parent, and only then.

    A signal to the whole process group (Ctrl-C, a scheduler's SIGTERM, a closed terminal's SIGHUP)
    is the parent's to handle: it saves, then stops its workers. A parent killed outright cannot,
    so watch for it.
    """
    del worker, workers
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_CHECK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watch-parent").start()


def next_from_workers(iterator: Iterator[Element]) -> Element:
    """``next(iterator)``, which Grain's worker processes make.

    Grain looks at its workers when nothing comes. It cannot while it hands a worker its work or
    reads what that one hands over: both ends of a pipe are open in this process, so that with the
    worker killed there the read or the write never returns. Hence a thread does it, and this one
    looks for a child that has ended and that nobody has asked for (where the system has
    ``waitid``).

    Raises:
      WorkerKilled: a worker has; in that case the iterator may never be left by its thread.
      Exception: what ``next`` raises.
    """
    answers: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(
        target=_ask, args=(iterator, answers), daemon=True, name="next-from-workers"
    ).start()
    killed = None
    while True:
        try:
            element, error = answers.get(timeout=_WORKER_CHECK_SECONDS)
            break
        except queue.Empty:
            before, killed = killed, _killed_child()
            if killed and killed == before:
                raise WorkerKilled from None
    if isinstance(error, RuntimeError) and str(error).startswith(_GRAIN_SAYS):
        raise WorkerKilled from error
    if error is not None:
        raise error
    return element


def exit_without_them(code: int) -> NoReturn:
    """Ends this process after a worker was killed, though threads of it wait for that one for ever.

    The other workers are killed first: those that are being started would complain.
    """
    for children in Path("/proc/self/task").glob("*/children"):
        for child in children.read_text().split():
            with contextlib.suppress(OSError):
                if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text():
                    os.kill(int(child), signal.SIGKILL)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _ask(iterator: Iterator, answers: queue.SimpleQueue) -> None:
    try:
        answers.put((next(iterator), None))
    except BaseException as error:
        answers.put((None, error))


def _killed_child() -> int | None:
    """Number of a child process that has ended badly and still waits to be asked for."""
    if not hasattr(os, "waitid"):
        return None
    try:
        child = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # there is none
        return None
    return child.si_pid if child and child.si_status else None
