"""Compiled programs kept on disk, so that the next start of the same program need not compile.

JAX's own cache, in one folder for all tasks. Several processes may share it: an entry that is half
written, by one that is busy or was killed, is no entry.
"""

import hashlib
import os
import platform
import shutil
import warnings
from pathlib import Path

import jax

_VARIABLE = "JAX_COMPILATION_CACHE_DIR"  # JAX's own
_MOST_BYTES = 5 * 10**9
_LEAST_FREE_BYTES = 10**9


def keep_compiled_programs() -> str:
    """Turns the cache on; below ``~/.cache/repre_jax/compiled`` unless the environment says where.

    ``JAX_COMPILATION_CACHE_DIR`` names another folder, which is left to JAX; empty, it turns the
    cache off. To be called before anything is compiled.

    Returns:
      Why there is none, a sentence; empty where there is one, or none is wanted.
    """
    if _VARIABLE in os.environ:
        return ""
    folder = Path(os.path.expanduser("~/.cache/repre_jax/compiled"), _machine())
    if not folder.is_absolute():
        return _refusal(folder, "this user has no home")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _make_room(folder)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return _refusal(folder, error.strerror or str(error))
    if not os.access(folder, os.W_OK):
        return _refusal(folder, "it cannot be written to")
    if free < _LEAST_FREE_BYTES:
        return _refusal(folder, "the disk is nearly full")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # A program that cannot be read or written is compiled: that costs time and nothing else.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    return ""


def _machine() -> str:
    """A name for CPUs of these instructions.

    JAX's keys tell compilers and options apart but not CPUs, and a home may serve several machines.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    # "flags" on x86, "Features" on ARM.
    known = [line for line in lines if line.startswith(("flags", "Features"))][:1]
    told = " ".join([platform.machine(), platform.processor(), *known])
    return f"{platform.machine()}-{hashlib.blake2b(told.encode(), digest_size=4).hexdigest()}"


def _make_room(folder: Path) -> None:
    """Removes the oldest programs where all together are too many."""
    found = [(path.stat(), path) for path in folder.iterdir() if path.is_file()]
    kept = 0
    for status, path in sorted(found, key=lambda f: -f[0].st_mtime):
        kept += status.st_size
        if kept > _MOST_BYTES:
            path.unlink(missing_ok=True)


def _refusal(folder: Path, reason: str) -> str:
    return f"Compiled programs are not kept in {folder}, so that every start compiles: {reason}."
