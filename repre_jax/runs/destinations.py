"""Where rows of metrics go: metrics.jsonl and TensorBoard here, services in ``trackers.py``."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from tensorboardX import SummaryWriter

from repre_jax.runs.disk_errors import disk_trouble_told
from repre_jax.runs.folder import write_text

Row = Mapping[str, float]


class Destination(Protocol):
    """One place that every row of a run goes to."""

    def write(self, row: Row) -> None:
        """Takes a row: metrics of a step, with "step" and "wall_seconds" among them."""

    def close(self, *, finished: bool) -> None:
        """Lets go; ``finished`` says whether the run has come to its end."""


class MetricsFile:
    """metrics.jsonl: one JSON object a row, on disk as soon as it is written."""

    def __init__(self, path: Path):
        """Appends to ``path``, which ``drop_rows_after`` has readied."""
        self._path = path
        self._file = open(path, "a")  # noqa: SIM115 (until close)

    def take_back(self, step: int) -> None:
        """Drops the rows from ``step`` on."""
        with disk_trouble_told(self._path):
            self._file.close()
            drop_rows_after(self._path, step - 1)
            self._file = open(self._path, "a")  # noqa: SIM115 (until close)

    def write(self, row: Row) -> None:
        with disk_trouble_told(self._path):
            self._file.write(json.dumps(finite(row)) + "\n")
            self._file.flush()

    def close(self, *, finished: bool) -> None:
        self._file.close()


class TensorBoard:
    """Event files, without those steps that a resumed run makes again."""

    def __init__(self, folder: Path, start_step: int):
        """Appends to ``folder``, from the step after ``start_step`` on."""
        self._writer = SummaryWriter(str(folder), purge_step=start_step + 1 if start_step else None)

    def write(self, row: Row) -> None:
        for key, value in row.items():
            if key not in ("step", "wall_seconds"):
                self._writer.add_scalar(key, value, row["step"])

    def close(self, *, finished: bool) -> None:
        self._writer.close()


def finite(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: a number that is not finite becomes null."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in metrics.items()
    }


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; a last line that a crash cut short is left out."""
    rows = []
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def best_row(path: Path, score: str, last: Row) -> Row | None:
    """The row with the largest ``score``, the earliest such, None where no row has one.

    Args:
      path: of a metrics.jsonl.
      score: key of the rows.
      last: metrics of the last step, with "step": the file may lack them, where it was lost, say.
    """
    rows = [row for row in (*read_rows(path), last) if row.get(score) is not None]
    return max(rows, key=lambda row: row[score], default=None)


def drop_rows_after(path: Path, step: int) -> list[dict[str, Any]]:
    """Keeps the rows up to ``step``; a last line that a crash cut short goes too."""
    if not path.exists():
        return []
    kept = [row for row in read_rows(path) if row.get("step", step + 1) <= step]
    write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
    return kept
