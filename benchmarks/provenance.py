"""Where a benchmark's numbers come from: the part that every file in ``results/`` shares."""

import datetime
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from repre_jax.data.host.cores import usable_cores
from repre_jax.errors import UserError
from repre_jax.runs.commit import code_commit

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("jax", "jaxlib", "libtpu", "jax-cuda13-plugin", "flax", "optax", "grain", "numpy")
_PACKAGES += ("opencv-python-headless", "pillow")


def provenance(*, device: bool = True, in_child: bool = False) -> dict:
    """Returns what somebody needs to judge or repeat a measurement.

    Args:
      device: whether to name the accelerator, which starts it; False for a host benchmark.
      in_child: start it in a child process that ends at once. A benchmark whose children train
        must not hold the accelerator itself.

    Returns:
      {"command", "commit", "date", "hardware": {"cpu", "cores", "device", "devices"},
      "versions"}. ``commit`` ends in "+changes" when tracked files differ from it.
    """
    hardware = {"cpu": _cpu_model(), "cores": usable_cores(), "device": None, "devices": 0}
    if device:
        hardware["device"], hardware["devices"] = _device_in_child() if in_child else _device()
    return {
        "command": _command(),
        "commit": code_commit() or "unknown",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hardware": hardware,
        "versions": {"python": platform.python_version()} | _versions(),
    }


def save_result(name: str, result: dict) -> Path:
    """Writes ``results/<name>.json`` and returns its path."""
    path = RESULTS / f"{name}.json"
    write_result(path, result)
    return path


def write_result(path: Path, result: dict) -> None:
    """Writes a result whole or not at all, a list of numbers on one line."""
    text = json.dumps(result, indent=2, allow_nan=False)
    text = re.sub(r"\[[^][{}]*\]", lambda found: " ".join(found.group().split()), text)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(text + "\n")
    os.replace(unfinished, path)


def finished_rows(path: Path, result: dict[str, Any], wanted: Sequence[str]) -> dict[str, Any]:
    """Rows of an earlier call of the same command, on the same commit and machine; else none.

    Raises:
      UserError: the file has rows that this call does not make anew, and would lose.
    """
    earlier = json.loads(path.read_text()) if path.exists() else {}
    same = all(earlier.get(key) == result[key] for key in result if key != "date")
    if same and not result["commit"].endswith("+changes"):
        return earlier["rows"]
    if lost := set(earlier.get("rows", {})) - set(wanted):
        raise UserError(
            f"{path} has rows that this command does not make ({', '.join(sorted(lost)[:3])}): "
            "make all of them, or move the file away."
        )
    return {}


def in_file_names(device_kind: str) -> str:
    """A device's kind as results are called after it: "nvidia_h100_80gb_hbm3"."""
    return re.sub(r"[^a-z0-9]+", "_", device_kind.lower())


def _command() -> str:
    # ``python -m package.module`` leaves only a path in argv; __main__ still knows the module.
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = ["-m", spec.name] if spec else [sys.argv[0]]
    return shlex.join(["python", *program, *sys.argv[1:]])


def _device() -> tuple[str, int]:
    import jax  # starts the accelerator, which a host benchmark leaves alone

    return jax.devices()[0].device_kind, jax.device_count()


def _device_in_child() -> tuple[str, int]:
    ask = "import json; from benchmarks import provenance as p; print(json.dumps(p._device()))"
    answer = subprocess.run(
        [sys.executable, "-c", ask],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    kind, count = json.loads(answer.splitlines()[-1])
    return kind, count


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
