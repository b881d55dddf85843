"""SIGTERM, which schedulers send a moment before they kill: a flag instead of an end."""

import contextlib
import signal
from collections.abc import Callable, Iterator

import jax


@contextlib.contextmanager
def on_sigterm() -> Iterator[Callable[[], bool]]:
    """Inside, SIGTERM only raises a flag, which the function given out reads."""
    if jax.process_count() > 1:  # jax.distributed listens; see Checkpoints.preempted
        yield lambda: False
        return
    raised = []
    before = signal.signal(signal.SIGTERM, lambda *_: raised.append(True))
    try:
        yield lambda: bool(raised)
    finally:
        signal.signal(signal.SIGTERM, before)
