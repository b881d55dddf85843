"""starts.jsonl: the processes that trained a run, a line each, so that its page can name them."""

import datetime
import json
import platform
import shlex
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

import repre_jax
from repre_jax.runs.commit import code_commit
from repre_jax.runs.destinations import read_rows
from repre_jax.runs.disk_errors import disk_trouble_told
from repre_jax.runs.folder import STARTS, Change, RunFolder

# What is typed for each of the programs that start a run.
_PROGRAMS = {
    "main.py": ["python", "main.py"],
    "repre-jax": ["repre-jax"],
    "repre_jax/__main__.py": ["python", "-m", "repre_jax"],
}
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def note_start(
    folder: RunFolder, *, step: int, devices: int, changes: Sequence[Change] = ()
) -> None:
    """Adds this process to the starts of a run.

    Args:
      folder: of the run.
      step: steps that were done before, 0 for a new run.
      devices: that share a step, over all processes.
      changes: of what was another way at the start before.

    Raises:
      UserError: disk full or no permission.
    """
    command = _typed_command()
    start = {
        "step": step,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command and shlex.join(command),
        "config": command and _config_name(command),
        "commit": code_commit(),
        "versions": _versions(),
        "devices": devices_told(devices),
        "processes": jax.process_count(),
    }
    if changes:
        start["changed"] = list(map(str, changes))
    path = starts_path(folder.path)
    with disk_trouble_told(path), open(path, "a") as file:
        file.write(json.dumps(start) + "\n")


def read_starts(run: Path) -> list[dict[str, Any]]:
    """The starts of a run, the first one first; none for a run of an older version."""
    return read_rows(starts_path(run))


def devices_told(count: int) -> str:
    """ "8 x NVIDIA H100 80GB HBM3"."""
    return f"{count} x {jax.devices()[0].device_kind}"


def starts_path(run: Path) -> Path:
    """Where they lie."""
    return run / STARTS


def typed(*arguments: str) -> str:
    """What to type for the program that runs: "python main.py", say, and arguments."""
    call = _PROGRAMS.get(_program(), [_program()])
    return shlex.join([sys.orig_argv[0] if x == "python" else x for x in call] + [*arguments])


def _typed_command() -> list[str] | None:
    """What was typed; None where another program, such as a notebook, has called this package."""
    call = _PROGRAMS.get(_program())
    return call and [*call, *sys.argv[1:]]


def _program() -> str:
    """File name of what was started; of ``python -m`` with that of the package."""
    path = Path(sys.argv[0])
    return "/".join(path.parts[-2:]) if path.name == "__main__.py" else path.name


def _config_name(command: list[str]) -> str | None:
    """ "imagenette_dino:baseline" of "--config=configs/imagenette_dino.py:baseline"."""
    given = [x.partition("=")[2] for x in command if x.startswith(("--config=", "-config="))]
    if not given:
        return None
    file, colon, variants = given[-1].partition(":")
    return f"{Path(file).stem}{colon}{variants}"


def _versions() -> dict[str, str]:
    found = {"repre_jax": repre_jax.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
