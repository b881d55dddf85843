"""Ctrl-C, a scheduler's SIGTERM, a closed terminal's SIGHUP: a flag where work is to be saved."""

import contextlib
import os
import signal
from collections.abc import Iterator

import jax

from repre_jax.stop_signals import STOP_SIGNALS


class Stopped(Exception):
    """A run was asked to stop and has saved; the same command goes on.

    Attributes:
      signal: by which it was asked.
    """

    def __init__(self, number: int):
        super().__init__(number)
        self.signal = signal.Signals(number)

    @property
    def exit_code(self) -> int:
        """That of a shell whose command ended by the signal: 130, 143 or 129."""
        return 128 + self.signal


class Interruption:
    """Listens for the signals that ask a process to stop.

    Attributes:
      signal: the one that has come while somebody listened, or None.
    """

    def __init__(self):
        self.signal: signal.Signals | None = None
        self._told_all = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, the first signal is only noted; the second ends the process at once.

        Outside they do whatever they did before. What the process was started to ignore, as under
        nohup, stays ignored.

        In a run of several processes ``jax.distributed`` listens for SIGTERM, which any one of them
        may get, and all stop after the same step (``Checkpoints.preempted``); the other signals
        become that one.
        """
        together = jax.process_count() > 1
        before = {
            number: signal.getsignal(number)
            for number in STOP_SIGNALS
            if signal.getsignal(number) != signal.SIG_IGN
            and not (together and number == signal.SIGTERM)
        }
        try:
            for number in before:
                signal.signal(number, self._tell_all if together else self._note)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, _) -> None:
        if self.signal is not None:
            end_by(number)
        self.signal = signal.Signals(number)

    def _tell_all(self, number: int, _) -> None:
        if self._told_all:
            end_by(number)
        self._told_all = True
        os.kill(os.getpid(), signal.SIGTERM)


def end_by(number: int) -> None:
    """Ends the process as the signal does where nobody handles it."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def end_at_once_on_ctrl_c() -> None:
    """Ctrl-C ends this process as SIGTERM does, in the middle of a compilation too.

    Python's own handler waits for the compiler to return and then prints a traceback.
    """
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
