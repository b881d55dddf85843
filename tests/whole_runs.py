"""Whole runs by the command line: small data, the command in this process, what a run leaves."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

from repre_jax import command_line

ROOT = Path(__file__).parents[1]
TIMINGS = ("wall_seconds", "images_per_second", "input_bound")


def image_folder(root: Path, *, train: int = 32, val: int = 8, overlap: int = 0) -> Path:
    """``root/train`` and ``root/val`` with so many 20-pixel images, half bright, half dark.

    With an ``overlap`` the brightness of bright ones is drawn from as far down and that of dark
    ones from as far up: from 50 on the classes overlap, and accuracies stay below 1.
    """
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            name = ("bright", "dark")[number % 2]
            path = root / split / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            low = {"bright": 100, "dark": 0}[name]
            low += {"bright": -1, "dark": 1}[name] * int(rng.integers(overlap + 1))
            cv2.imwrite(str(path), rng.integers(low, low + 156, (20, 20, 3), np.uint8))
    return root


def command(*arguments: str | Path) -> int:
    """Exit code of ``python main.py arguments``, run in this process."""
    return command_line.main(["main.py", *map(str, arguments)])


def killable_command(moment: str, *arguments: str | Path) -> subprocess.CompletedProcess:
    """``python main.py arguments`` in a process of its own that meets its fate at ``moment``.

    ``moment`` is a key of ``fates.FATES``, or "" for a run that nothing happens to.
    """
    return subprocess.run(
        [sys.executable, "tests/fates.py", moment, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=1800,
    )


def rows(workdir: Path) -> list[dict]:
    """What metrics.jsonl holds, timings aside."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [without_timings(json.loads(line)) for line in lines]


def summary(workdir: Path) -> dict:
    """What summary.json holds."""
    return json.loads((workdir / "summary.json").read_text())


def without_timings(numbers: dict) -> dict:
    """Numbers that two runs of the same config share."""
    return {name: value for name, value in numbers.items() if name not in TIMINGS}


def checkpoint_steps(workdir: Path) -> list[int]:
    """Steps of the whole checkpoints on disk."""
    folders = (workdir / "checkpoints").glob("[0-9]*")
    return sorted(int(folder.name) for folder in folders if folder.name.isdigit())
