"""Many checkpoints by the same protocols: one table as Markdown and as CSV, row by row."""

import csv
import io
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from repre_jax.convert.files import is_foreign
from repre_jax.errors import UserError
from repre_jax.evaluate import evaluate
from repre_jax.evaluation import TASKS
from repre_jax.evaluation.checkpoint import WEIGHTS
from repre_jax.evaluation.task import DATA_RANGES
from repre_jax.ranges import check_ranges
from repre_jax.runs.disk_errors import disk_trouble_told
from repre_jax.runs.folder import find_runs, write_text

_IN_PERCENT = ("top1", "mean_iou", "j_and_f", "box_ap")  # metrics that are shares


def tabulate(config: ConfigDict, workdir: Path) -> None:
    """Evaluates every run of ``config.runs`` and writes ``table.md`` and ``table.csv``.

    Cells that are finished are read from their ``results.json``; the files are written anew after
    every row, so that a table that was stopped (a fine-tuning, by SIGTERM) shows what there is. A
    cell that cannot be made is left empty, and the others are made all the same.

    Args:
      config: of ``configs/eval/table.py``: ``cells`` names sections, each the config of a task.
      workdir: where the two files go.

    Raises:
      UserError: no run, a cell that is none, or cells that could not be made.
    """
    known = [name for name in TASKS if name in config]
    check_ranges(config, DATA_RANGES)
    for cell in known:
        ranges = {f"{cell}.{key}": allowed for key, allowed in TASKS[cell].ranges.items()}
        check_ranges(config, ranges)
    for key, choices in (("cells", known), ("weights", WEIGHTS)):
        for value in config[key]:
            if value not in choices:
                raise UserError(f"{key}: {value!r} must be one of {', '.join(choices)}.")
        if not config[key]:
            raise UserError(f"{key} is empty, and so would be the table.")
    runs = find_rows(config.runs)
    rows: list[dict[str, Any]] = []
    failures: list[str] = []
    made = False  # any cell at all
    primary = jax.process_index() == 0
    for run in runs:
        for weights in config.weights:
            results = {}
            for name in config.cells:
                try:
                    results[name] = evaluate(_cell(config, name, run, weights), None)
                except UserError as error:
                    failures.append(f"{run.name} ({weights}), {name}: {error}")
            rows.append(_row(run, weights, results))
            made = made or bool(results)
            if primary and made:
                _write(workdir, rows, list(config.cells))
    if primary and made:
        print(f"{workdir / 'table.md'}:\n\n{markdown(rows, list(config.cells))}")
    if failures:
        raise UserError(f"{len(failures)} cells could not be made. " + " ".join(failures))


def find_rows(patterns: str) -> list[Path]:
    """Runs, and weights of other libraries, that match one of the patterns; UserError for none."""
    return find_runs(
        patterns,
        wanted=lambda path: (path / "checkpoints").is_dir() or is_foreign(path),
        words="no folder with checkpoints, nor weights of another library",
    )


def markdown(rows: list[dict[str, Any]], cells: list[str]) -> str:
    """The table for people; what a column means stands below it."""
    head = ["run", "method", "weights", "step", *cells]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        shown = [str(row[key]) for key in head[:4]]
        lines.append("| " + " | ".join([*shown, *(_shown(row.get(cell)) for cell in cells)]) + " |")
    for cell in cells:
        runs: dict[tuple[str, str], list[str]] = {}
        for row in rows:
            if cell in row:
                runs.setdefault((row[cell]["protocol"], row[cell]["formula"]), []).append(
                    row["run"]
                )
        for (protocol, formula), names in runs.items():
            # Where a protocol differs from run to run, its formulas say whose they are.
            whose = f" of {', '.join(dict.fromkeys(names))}" if len(runs) > 1 else ""
            lines.append(f"\n{cell}, {protocol}{whose}: {formula}.")
    return "\n".join(lines) + "\n"


def comma_separated(rows: list[dict[str, Any]], cells: list[str]) -> str:
    """The table for programs: value, spread, protocol and seconds of every cell."""
    parts = ("value", "spread", "protocol", "wall_seconds")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["run", "method", "weights", "step", *(f"{c}/{part}" for c in cells for part in parts)]
    )
    for row in rows:
        of_cells = [row.get(cell, {}).get(part, "") for cell in cells for part in parts]
        writer.writerow([row["run"], row["method"], row["weights"], row["step"], *of_cells])
    return text.getvalue()


def _cell(config: ConfigDict, cell: str, run: Path, weights: str) -> ConfigDict:
    inner = config[cell].copy_and_resolve_references()
    with inner.unlocked():
        inner.update({"task": cell, "workdir": "", "checkpoint": str(run), "weights": weights})
    for key, value in config.data.items():
        if value is not None and not TASKS[cell].own_data:
            inner.data[key] = value
    return inner


def _row(run: Path, weights: str, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    first = next(iter(results.values()), {"method": "", "weights": weights, "step": ""})
    return {"run": run.name} | {key: first[key] for key in ("method", "weights", "step")} | results


def _shown(result: dict[str, Any] | None) -> str:
    if result is None:
        return ""
    value, spread = result["value"], result.get("spread")
    if result["metric"] not in _IN_PERCENT:
        return f"{value:.3g}" + (f" +- {spread:.2g}" if spread is not None else "")
    return f"{100 * value:.2f}" + (f" +- {100 * spread:.2f}" if spread is not None else "")


def _write(workdir: Path, rows: list[dict[str, Any]], cells: list[str]) -> None:
    with disk_trouble_told(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    write_text(workdir / "table.md", markdown(rows, cells))
    write_text(workdir / "table.csv", comma_separated(rows, cells))
