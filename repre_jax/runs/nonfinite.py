"""Steps whose loss or gradient is not finite: whose images they were, in a small file each.

nonfinite/<step>.json   what replays the step (``configs/replay.py``) and is read by people
"""

import math
from typing import Any

import jax
import numpy as np

from repre_jax.data.sources.source import Source
from repre_jax.runs.folder import RunFolder, write_json
from repre_jax.runs.starts import typed

_MOST_FILES = 20  # a run that never recovers would write one every step


def note_nonfinite(
    folder: RunFolder, source: Source, step: int, metrics: dict[str, Any], index: jax.Array
) -> str:
    """Writes the file of a skipped step and returns a sentence about it.

    Args:
      folder: of the run.
      source: of the images.
      step: which step was skipped.
      metrics: of the step; of "features" [B, D], the rows that are not finite name images.
      index: int32 [B], the images of the batch; of a run of several processes nothing is said of
        images, for one process has not all of them.
    """
    images = {}
    if jax.process_count() == 1:
        images = _images_at_fault(source, np.asarray(index), metrics.get("features"))
    names = images.get("features_not_finite_of", [])
    path = folder.path / "nonfinite" / f"{step}.json"
    path.parent.mkdir(exist_ok=True)
    if len(list(path.parent.iterdir())) < _MOST_FILES:
        scalars = {key: float(metrics[key]) for key in ("loss", "grad_norm") if key in metrics}
        told = {
            key: value if math.isfinite(value) else str(value) for key, value in scalars.items()
        }
        write_json(path, {"step": step, **told, **images})
    which = f", nor are the features of {', '.join(names[:3])}" if names else ""
    told = f"Step {step:,} is skipped: loss or gradient is not finite{which}."
    if path.exists() and folder.config.get("task") == "pretrain":  # what replay can repeat
        told += f" {typed('--config=replay', f'--config.step_file={path}')} looks into it."
    return told


def _images_at_fault(source: Source, index: np.ndarray, features: Any) -> dict[str, list]:
    damaged = index[:0]
    if features is not None:
        damaged = index[~np.isfinite(np.asarray(features)).all(axis=-1)]
    # Where one image spoils all rows, as through BatchNorm, none of them can be told from it.
    named = [] if len(damaged) == len(index) else [source.name_of(int(i)) for i in damaged]
    names = [name.encode(errors="backslashreplace").decode() for name in named]
    return {"features_not_finite_of": names, "images": index.tolist()}
