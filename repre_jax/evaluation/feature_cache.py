"""Features on disk, so that a second evaluation of a checkpoint need not run the encoder."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from repre_jax.evaluation.features import Features
from repre_jax.runs.commit import code_commit
from repre_jax.runs.disk_errors import disk_trouble_told

_ARRAYS = tuple(f"{name}.npy" for name in Features._fields)
_COMMIT = "commit"


def cached_features(
    folder: Path, images: int, compute: Callable[[], Features]
) -> tuple[Features, str]:
    """Features from ``folder``, computed and put there when it is missing.

    The name of ``folder`` must tell apart all that the features depend on. It appears whole or not
    at all; what cannot be read is made anew. Features of fewer images than there are, because some
    could not be read, are not kept: they may be readable next time. In a run of several processes
    all of them call this, and the folder is shared between them.

    Args:
      folder: of these features.
      images: how many there are.
      compute: makes the features.

    Returns:
      (features, commit of the code that made them, "unknown" outside of a checkout).

    Raises:
      UserError: disk full or no permission.
    """
    found = _read(folder)
    if jax.process_count() > 1 and not multihost_utils.process_allgather(found is not None).all():
        found = None
    if found is not None:
        return found
    features, commit = compute(), code_commit() or "unknown"
    if jax.process_index() == 0 and len(features.index) == images:
        with disk_trouble_told(folder):
            _write(folder, features, commit)
    return features, commit


def _read(folder: Path) -> tuple[Features, str] | None:
    try:
        found = Features(*(np.load(folder / name, mmap_mode="r") for name in _ARRAYS))
        commit = (folder / _COMMIT).read_text()
    except (OSError, ValueError):
        return None
    return (found, commit) if len({len(array) for array in found}) == 1 else None


def _write(folder: Path, features: Features, commit: str) -> None:
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        for name, array in zip(_ARRAYS, features, strict=True):
            np.save(unfinished / name, array)
        (unfinished / _COMMIT).write_text(commit)
        shutil.rmtree(folder, ignore_errors=True)  # damaged, or another process was faster
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
