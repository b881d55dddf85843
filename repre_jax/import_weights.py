"""An encoder of another library, made into a run of this one: one checkpoint, of step 0."""

import contextlib
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import struct
from ml_collections import ConfigDict

from repre_jax.convert.architecture import Told
from repre_jax.convert.files import run_name
from repre_jax.convert.foreign import read_foreign
from repre_jax.data.pixel_format import pixel_format
from repre_jax.errors import UserError
from repre_jax.evaluation.task import DATA_RANGES
from repre_jax.image_size import check_image_size
from repre_jax.ranges import AT_LEAST_ONE, POSITIVE, check_ranges
from repre_jax.runs.checkpoints import Checkpoints
from repre_jax.runs.folder import RunFolder, saved_config

RANGES = {
    "heads": AT_LEAST_ONE,
    "norm_epsilon": POSITIVE,
    "image_size": AT_LEAST_ONE,
    "window": AT_LEAST_ONE,
}


class ImportedState(struct.PyTreeNode):
    """What a checkpoint of an import holds: the part of a ``TrainState`` that evaluations read.

    Attributes:
      step: int32, 0.
      params: {"encoder"}, or {} where the weights are a moving average.
      target_params: {"encoder"} of a moving average, or {}.
    """

    step: np.ndarray
    params: Any
    target_params: Any


def import_weights(config: ConfigDict, workdir: Path | None) -> Path:
    """Writes the run folder of an encoder that another library saved, and says what was found.

    Args:
      config: of ``configs/import.py``.
      workdir: the run folder; None for ``runs/<name of the source>``.

    Returns:
      The run folder.

    Raises:
      UserError: no source, nothing in it that can be imported, a folder that holds another run, or
        several processes.
    """
    check_ranges(config, RANGES | DATA_RANGES)
    if jax.process_count() > 1:
        raise UserError("An import is the work of one process: leave out --distributed.")
    if config.image_size is not None:
        check_image_size(config.image_size, "image_size")
    if config.data.mean or config.data.std:
        raise UserError(
            "data.mean and data.std are what the weights were trained with: leave them out, and "
            "set pixels where nothing tells."
        )
    if not config.source:
        raise UserError("source is empty: set --config.source=<file of weights>.")
    source = Path(config.source).expanduser().absolute()
    found = read_foreign(
        source,
        weights=config.weights,
        told=Told(
            method=config.method,
            heads=config.heads,
            image_size=config.image_size,
            window=config.window,
            norm_epsilon=config.norm_epsilon,
            pixels=config.pixels,
        ),
    )
    workdir = workdir or Path("runs", run_name(source))
    saved = found.config.copy_and_resolve_references()
    pixel_format(config.data, saved.model.channels)  # or every evaluation would refuse the run
    pixels = {"mean": saved.data.mean, "std": saved.data.std}
    saved.workdir, saved.data = str(workdir), config.data
    saved.data.update(pixels)
    encoder, target = {"encoder": found.params}, found.weights == "target"
    state = ImportedState(np.int32(0), {} if target else encoder, encoder if target else {})
    print("\n".join(found.said))
    _write(workdir, saved, state)
    print(f"Imported into {workdir}: evaluate it with --config.checkpoint={workdir}.")
    return workdir


def _write(workdir: Path, config: ConfigDict, state: ImportedState) -> None:
    new = not workdir.exists()
    try:
        with contextlib.closing(RunFolder(workdir, config.to_dict(), ignore=("workdir",))) as run:
            unclaimed = saved_config(workdir) is None
            if unclaimed:  # what an import that was cut off has left
                shutil.rmtree(run.checkpoints / "0", ignore_errors=True)
            with contextlib.closing(
                Checkpoints(run.checkpoints, keep=1, best_metric=None)
            ) as checkpoints:
                if unclaimed and checkpoints.steps:
                    raise UserError(
                        f"{workdir} holds checkpoints and no config.json that tells of what: "
                        "choose another --workdir."
                    )
                checkpoints.save(state)
            run.write_config()
    except BaseException:
        if new:
            shutil.rmtree(workdir, ignore_errors=True)
        raise
