"""Runs the command and lets something happen to it at a chosen moment; a script for test_resume.

python tests/fates.py "<key of FATES>" <arguments of main.py>
"""

import functools
import os
import resource
import signal
import sys
from collections.abc import Callable

from orbax.checkpoint._src.path import atomicity

from repre_jax import command_line, pretrain
from repre_jax.data import batches
from repre_jax.evaluation import online
from repre_jax.runs.checkpoints import Checkpoints
from repre_jax.runs.logs import RunLogs
from repre_jax.runs.loop import TrainingLoop


def before(owner: object, name: str, call: int, act: Callable[..., None]) -> None:
    """Has ``owner.name`` do ``act``, with its arguments, when its call number ``call`` begins."""
    function = getattr(owner, name)
    calls = 0

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == call:
            act(*args, **kwargs)
        return function(*args, **kwargs)

    setattr(owner, name, wrapped)


def kill(*_, **__) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_when_saved(checkpoints: Checkpoints, *_, **__) -> None:
    """Saving goes on in the background: the save before this one is let finish."""
    checkpoints.wait()
    kill()


def terminate(*_, **__) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def fill_disk(*_, **__) -> None:
    """The kernel refuses files above 64 KiB from now on, as a full disk would."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))


FATES = {
    # The host waits for a step while the device computes it.
    "killed in the first step": (TrainingLoop, "_check_finite", 1, kill),
    # All is written, under a temporary name still.
    "killed in a save": (atomicity.AtomicRenameTemporaryPath, "finalize", 1, kill),
    "killed in an evaluation": (online, "knn_accuracy", 1, kill),
    "killed between the log and the save": (Checkpoints, "save", 2, kill_when_saved),
    "killed while input is read": (batches, "crop_views", 20, kill),
    "killed at the very end": (pretrain, "save_reconstructions", 1, kill),
    "terminated": (RunLogs, "log", 2, terminate),
    "disk full": (Checkpoints, "save", 1, fill_disk),
}

if __name__ == "__main__":
    if sys.argv[1]:
        before(*FATES[sys.argv[1]])
    sys.argv = ["main.py", *sys.argv[2:]]
    command_line.run()
