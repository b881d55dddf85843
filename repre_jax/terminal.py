"""Standard output that may go away: ``| head``, a closed terminal, a log file on a full disk."""

import io
import sys


def outlive_terminal() -> None:
    """What can no longer be printed is lost from now on; the process goes on.

    A run's metrics are in its folder, and worth more than whoever reads along.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        try:
            descriptor = stream.fileno()
        except (AttributeError, OSError):  # none, or a notebook's
            continue
        lasting = io.TextIOWrapper(
            io.BufferedWriter(_LastingFile(descriptor, "w", closefd=False)),
            encoding=stream.encoding,
            errors="backslashreplace",  # names of files need not be text
            line_buffering=True,  # who reads a pipe reads along
        )
        stream.flush()
        setattr(sys, name, lasting)


class _LastingFile(io.FileIO):
    def write(self, data) -> int:
        try:
            return super().write(data)
        except OSError:  # nobody reads any more, or there is no room
            return len(data)
