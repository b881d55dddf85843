"""The encoder of a run, or of another library's file, as a folder that other libraries open."""

from pathlib import Path

import jax
from ml_collections import ConfigDict

from repre_jax.convert.export import check_format, check_unused
from repre_jax.errors import UserError
from repre_jax.evaluation.checkpoint import open_pretrained
from repre_jax.evaluation.encoder import Encoder
from repre_jax.ranges import NOT_NEGATIVE, check_ranges

RANGES = {"step": NOT_NEGATIVE}


def export_weights(config: ConfigDict, workdir: Path | None) -> Path:
    """Writes what ``config.format`` names, compares it with the encoder, and describes it.

    Args:
      config: of ``configs/export.py``.
      workdir: the folder; None for ``<run>/export/<format>-<weights>-<step>``.

    Returns:
      The folder.

    Raises:
      UserError: no such run or format, or an export that is not the same function.
    """
    check_ranges(config, RANGES)
    if jax.process_count() > 1:
        raise UserError("An export is the work of one process: leave out --distributed.")
    check_format(config.format)
    pretrained = open_pretrained(config.checkpoint, step=config.step, weights=config.weights)
    name = f"{config.format}-{pretrained.weights}-{pretrained.step}"
    folder = (workdir or pretrained.run / "export" / name).absolute()
    check_unused(folder)  # before the parameters are read
    encoder = Encoder(pretrained, pretrained.load_params())
    print(encoder.save(folder, format=config.format))
    print(f"Exported to {folder}.")
    return folder
