"""What a failed write means for the user: disk full, permission denied, or a file in the way."""

import contextlib
import errno
import re
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
