"""What a failed write means for the user: disk full, permission denied, or a file in the way."""

import contextlib
import errno
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from repre_jax.errors import UserError

_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN_ERRNOS = (errno.EACCES, errno.EPERM, errno.EROFS)
_IN_THE_WAY_ERRNOS = (errno.ENOTDIR, errno.EEXIST, errno.EISDIR)
# TensorStore, which writes the arrays of checkpoints, reports the system's words in other types.
_FULL_WORDS = re.compile(r"no space left|disk quota|file too large|ENOSPC|EDQUOT|EFBIG", re.I)
_FORBIDDEN_WORDS = re.compile(r"permission denied|not permitted|read-only file system", re.I)


@contextlib.contextmanager
def disk_trouble_told(path: Path) -> Iterator[None]:
    """Turns a failed write under ``path`` into a UserError that names it and the remedy."""
    try:
        yield
    except OSError as error:
        trouble = disk_trouble(error)
        if trouble is None:
            raise
        raise UserError(f"Cannot write {path}: {trouble}") from error


def disk_trouble(error: BaseException) -> str | None:
    """What is wrong and what to do, one sentence each; None when the disk is not to blame.

    Looks through the chain of causes, for libraries wrap the system's error in their own.
    """
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    numbers = {link.errno for link in chain if isinstance(link, OSError)}
    words = "\n".join(map(str, chain))
    if numbers & set(_FULL_ERRNOS) or _FULL_WORDS.search(words):
        return "no space is left there. Free some, and run the same command again to resume."
    if numbers & set(_FORBIDDEN_ERRNOS) or _FORBIDDEN_WORDS.search(words):
        return "permission denied. Make the folder writable or choose another --workdir."
    if numbers & set(_IN_THE_WAY_ERRNOS):
        return "a file of that name is in the way. Move it or choose another --workdir."
    return None


def silence_echoes() -> None:
    """Keeps off the screen what Orbax and TensorStore print about errors that are raised as well.

    A full disk fails hundreds of writes at once. One is raised; the others are reported by asyncio
    as never retrieved, never begin, or find Orbax's event loop closed and print a traceback each.
    """
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    logging.getLogger("absl").addFilter(_not_from_orbax)
    logging.getLogger("asyncio").addFilter(_not_left_behind)
    if getattr(sys.excepthook, "knows_echoes", False):
        return
    tell, tell_unraisable = sys.excepthook, sys.unraisablehook

    def is_echo(kind, error):
        return kind is RuntimeError and str(error) == "Event loop is closed"

    def excepthook(kind, error, trace):
        if not is_echo(kind, error):
            tell(kind, error, trace)

    def unraisablehook(unraisable):  # TensorStore's threads report through either hook
        if not is_echo(unraisable.exc_type, unraisable.exc_value):
            tell_unraisable(unraisable)

    excepthook.knows_echoes = True
    sys.excepthook, sys.unraisablehook = excepthook, unraisablehook


def _not_from_orbax(record: logging.LogRecord) -> bool:
    """Log filter: Orbax's threads log a traceback for errors that are raised here as well."""
    return "orbax" not in record.pathname


def _not_left_behind(record: logging.LogRecord) -> bool:
    return "exception was never retrieved" not in record.getMessage()
