"""Folders of runs that nobody trained: their config and rows of metrics, for pages about them."""

import json
import math
from pathlib import Path
from typing import Any

from repre_jax.config_files import read_config


def recorded_run(
    path: Path,
    rows: list[dict[str, Any]] | None = None,
    *,
    config: str = "quickstart:smoke",
    finished: bool = False,
    overrides: dict[str, Any] | None = None,
    **files: str,
) -> Path:
    """Makes the folder of a run.

    Args:
      path: where.
      rows: of metrics.jsonl; four steps unless given.
      config: whose settings it has.
      finished: whether it has a summary.
      overrides: dotted keys of the config.
      **files: "bad_files" and the like, as text files ``<name>.txt``.
    """
    settings = read_config(config)
    settings.update_from_flattened_dict(overrides or {})
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(settings.to_dict()))
    rows = [row(step) for step in range(1, 5)] if rows is None else rows
    (path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    if finished:
        summary = {"finished": True, "steps": rows[-1]["step"], "wall_seconds": 61.4}
        (path / "summary.json").write_text(json.dumps(summary))
    for name, text in files.items():
        (path / f"{name}.txt").write_text(text, errors="surrogateescape")
    return path


def row(step: int, **metrics: float | None) -> dict[str, Any]:
    """A row of a healthy run, with ``metrics`` in place of some of it ("/" is "__" there)."""
    usual = {
        "loss": 3 + 3 / step,
        "loss/contrast": 3 + 3 / step,
        "loss/reconstruct": 0.4 / step,
        "feature_std": 0.08,
        "effective_rank": 20.0,
        "images_per_second": 100.0,
        "input_bound": 0.02,
        "nonfinite_steps": 0.0,
        "wall_seconds": 10.0 * step,
    }
    given = {name.replace("__", "/"): value for name, value in metrics.items()}
    return {"step": step} | usual | given


def long_run(rows: int) -> list[dict[str, Any]]:
    """The rows of 300 epochs: every metric, noise, and a k-NN now and then."""
    found = []
    for k in range(1, rows + 1):
        noise = math.sin(12.9898 * k) * 43758.5453 % 1
        more = {
            "weight/contrast": 1 / (1 + k / rows),
            "weight/reconstruct": 1 + k / rows,
            "encoder_grad_norm/contrast": 1 + noise,
            "encoder_grad_norm/reconstruct": 0.1 + noise,
            "grad_norm": 4000 / k + noise + 1,
            "learning_rate": 5e-4 * math.cos(1.57 * k / rows),
            "momentum": 0.996,
            "teacher_temperature": 0.04,
            "teacher_entropy": 3 + noise,
            "teacher_divergence": 1 + noise,
            "nonfinite_in_a_row": 0.0,
        }
        if k % (rows // 30) == 0:
            more |= {"knn/top1": 0.3 + 0.4 * k / rows, "knn/top5": 0.6 + 0.3 * k / rows}
        found.append(row(50 * k, loss=5 / (1 + k / 1000) + noise) | more)
    return found
