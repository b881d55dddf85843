"""What the folder of a pre-training run records, read without touching it."""

import dataclasses
import functools
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from repre_jax.errors import UserError
from repre_jax.evaluation.checkpoint import run_config
from repre_jax.losses.meters import collapse_verdict
from repre_jax.models import build_encoder
from repre_jax.runs.destinations import read_rows
from repre_jax.runs.starts import read_starts
from repre_jax.training.learner import build_method

_NOT_METRICS = ("step", "wall_seconds")


class Curve(NamedTuple):
    """A metric over a run.

    Attributes:
      steps: int64 [n], ascending.
      values: float64 [n]; NaN where the metric was logged and not finite.
    """

    steps: np.ndarray
    values: np.ndarray

    @property
    def finite(self) -> "Curve":
        """Without what is not finite."""
        kept = np.isfinite(self.values)
        return Curve(self.steps[kept], self.values[kept])


@dataclasses.dataclass(frozen=True)
class RecordedRun:
    """A run as its folder tells it, however far it came.

    Attributes:
      path: of the folder.
      config: of the run; keys that it lacks have their defaults.
      curves: metric -> its curve.
      wall_seconds: up to the last row; 0 without one.
      summary: of a finished run, else None.
      starts: of ``starts.jsonl``.
      images: split -> {"where", "images"}; {} for older runs.
      bad_files: (name, reason) of what could not be read.
      evaluations: (path, contents) of the ``results.json`` files in ``eval/``.
      pictures: files in ``figures/``.
    """

    path: Path
    config: ConfigDict
    curves: dict[str, Curve]
    wall_seconds: float
    summary: dict[str, Any] | None
    starts: list[dict[str, Any]]
    images: dict[str, dict[str, Any]]
    bad_files: list[tuple[str, str]]
    evaluations: list[tuple[Path, dict[str, Any]]]
    pictures: list[Path]

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.path.name

    @property
    def last_step(self) -> int:
        """The last one that is logged, 0 without one."""
        return max((int(curve.steps[-1]) for curve in self.curves.values()), default=0)

    @property
    def total_steps(self) -> int | None:
        """Of the whole run; None where it is given in epochs of an unknown number of images."""
        train = self.config.train
        if self.summary and "steps" in self.summary:
            return int(self.summary["steps"])
        if train.steps:
            return train.steps
        images = self.images.get("train", {}).get("images")
        return images // train.batch_size * train.epochs if images else None

    @functools.cached_property
    def collapse(self) -> str | None:
        """What the meters say at the last row that has them: "" is healthy, None not measured."""
        try:
            encoder = build_encoder(self.config, jnp.float32)
            method = build_method(self.config, encoder)
        except (UserError, LookupError, AttributeError, TypeError, ArithmeticError):
            return None  # a run of a version that knew other models: its curves are there
        names = ("feature_std", "effective_rank", "teacher_entropy", "teacher_divergence")
        last = {name: self.last(name) for name in names}
        if not method.collapses or None in (last["feature_std"], last["effective_rank"]):
            return None
        verdict = collapse_verdict(
            last["feature_std"],
            encoder.width,
            last["effective_rank"],
            teacher_entropy=last["teacher_entropy"],
            teacher_divergence=last["teacher_divergence"],
            prototypes=self.config.method.get("prototypes"),
        )
        return verdict or ""

    def last(self, metric: str) -> float | None:
        """The last finite value of a metric."""
        curve = self.curves.get(metric)
        values = curve.finite.values if curve else ()
        return float(values[-1]) if len(values) else None


def open_run(path: Path) -> RecordedRun:
    """Reads the folder of a run.

    Raises:
      UserError: it is none, or one of imported weights, or its config cannot be read.
    """
    config = run_config(path)
    if config.task == "import":
        raise UserError(
            f"{path} holds imported weights, which have no curves: give the folder of a "
            "pre-training run."
        )
    rows = read_rows(path / "metrics.jsonl")
    summary = _json(path / "summary.json")
    found = [(file, _json(file)) for file in sorted(path.glob("eval/*/results.json"))]
    return RecordedRun(
        path=path,
        config=config,
        curves=curves(rows),
        wall_seconds=max((row.get("wall_seconds") or 0.0 for row in rows), default=0.0),
        summary=summary if summary and summary.get("finished") else None,
        starts=read_starts(path),
        images=_json(path / "images.json") or {},
        bad_files=_bad_files(path / "bad_files.txt"),
        evaluations=[(file, results) for file, results in found if results],
        pictures=sorted(path.glob("figures/*")),
    )


def curves(rows: list[dict[str, Any]]) -> dict[str, Curve]:
    """The metrics of rows, each over its steps; of several rows of a step the last one counts."""
    by_step: dict[int, dict[str, Any]] = {}
    for row in rows:
        if isinstance(row.get("step"), int):
            by_step.setdefault(row["step"], {}).update(row)
    points: dict[str, list[tuple[int, float]]] = {}
    for step in sorted(by_step):
        for key, value in by_step[step].items():
            number = math.nan if value is None else value
            if key not in _NOT_METRICS and isinstance(number, int | float):
                points.setdefault(key, []).append((step, number))
    return {
        key: Curve(np.array([s for s, _ in found]), np.array([v for _, v in found], float))
        for key, found in points.items()
    }


def _json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _bad_files(path: Path) -> list[tuple[str, str]]:
    lines = path.read_text(errors="surrogateescape").splitlines() if path.exists() else []
    return [(name, reason) for name, _, reason in (line.partition("\t") for line in lines)]
