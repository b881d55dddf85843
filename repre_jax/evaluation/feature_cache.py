"""Features on disk, so that a second evaluation of a checkpoint need not run the encoder."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from repre_jax.disk_trouble import disk_trouble_told

Features = tuple[np.ndarray, np.ndarray]  # float32 [n, F], int32 [n]
_ARRAYS = ("features.npy", "labels.npy")


def cached_features(folder: Path, compute: Callable[[], Features]) -> Features:
    """Features and labels from ``folder``, computed and put there when it is missing.

    The name of ``folder`` must tell apart all that the features depend on. It appears whole or not
    at all; what cannot be read is made anew. In a run of several processes all of them call this,
    and the folder is shared between them.

    Args:
      folder: of these features.
      compute: makes (features float32 [n, F], labels int32 [n]).

    Raises:
      UserError: disk full or no permission.
    """
    found = _read(folder)
    if jax.process_count() > 1 and not multihost_utils.process_allgather(found is not None).all():
        found = None
    if found is not None:
        return found
    features = compute()
    if jax.process_index() == 0:
        with disk_trouble_told(folder):
            _write(folder, features)
    return features


def _read(folder: Path) -> Features | None:
    try:
        features, labels = (np.load(folder / name, mmap_mode="r") for name in _ARRAYS)
    except (OSError, ValueError):
        return None
    return (features, labels) if len(features) == len(labels) else None


def _write(folder: Path, features: Features) -> None:
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        for name, array in zip(_ARRAYS, features, strict=True):
            np.save(unfinished / name, array)
        shutil.rmtree(folder, ignore_errors=True)  # damaged, or another process was faster
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
