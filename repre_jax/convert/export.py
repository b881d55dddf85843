"""An encoder into a folder of another library: written, compared, described; all or nothing."""

import os
import shutil
import tempfile
from pathlib import Path

from repre_jax.convert.card import card
from repre_jax.convert.compare import compare
from repre_jax.convert.exportable import Exportable
from repre_jax.convert.onnx_writer import write_onnx
from repre_jax.convert.writers import (
    write_huggingface,
    write_official,
    write_safetensors,
    write_stablehlo,
    write_timm,
)
from repre_jax.errors import UserError
from repre_jax.runs.disk_errors import disk_trouble_told

# config.format -> what writes it
WRITERS = {
    "timm": write_timm,
    "huggingface": write_huggingface,
    "official": write_official,
    "safetensors": write_safetensors,
    "stablehlo": write_stablehlo,
    "onnx": write_onnx,
}
TOLERANCE = 1e-4  # of any number of any token, on random images


def check_format(format: str) -> None:
    """Raises UserError for a format that is none of ``WRITERS``."""
    if format not in WRITERS:
        raise UserError(f"format={format!r} must be one of {', '.join(WRITERS)}.")


def check_unused(folder: Path) -> None:
    """Raises UserError for a folder that has something in it, or is a file."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already: remove it, or choose another --workdir.")


def export(exportable: Exportable, folder: Path, format: str) -> str:
    """Writes the encoder and its card into a new folder.

    Args:
      exportable: the encoder.
      folder: that does not exist yet, or is empty.
      format: of ``WRITERS``.

    Returns:
      A sentence on what was compared.

    Raises:
      UserError: no such format, an encoder that it has no place for, a folder that is in use, or
        an export that computes something else than the encoder.
    """
    check_format(format)
    folder = Path(folder).absolute()
    check_unused(folder)
    with disk_trouble_told(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            WRITERS[format](exportable, unfinished)
            difference = compare(exportable, unfinished, format)
            if difference is not None and not difference <= TOLERANCE:  # NaN, too
                raise UserError(
                    f"The export computes something else than the encoder: tokens differ by "
                    f"{difference:.2g}, more than {TOLERANCE:g}, so nothing was written."
                )
            (unfinished / "README.md").write_text(card(exportable, folder, format))
            unfinished.chmod(0o755)  # temporary folders are private
            os.replace(unfinished, folder)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    if difference is None:
        return "Its library is not installed, so that nothing was compared."
    return f"Tokens of random images differ by at most {difference:.2g} from the encoder's."
