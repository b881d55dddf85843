"""Many checkpoints by the same protocols: one table as Markdown and as CSV, row by row."""

import csv
import glob
import io
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from repre_jax.disk_trouble import disk_trouble_told
from repre_jax.errors import UserError
from repre_jax.evaluate import MEASURES, evaluate
from repre_jax.run_folder import write_text


def tabulate(config: ConfigDict, workdir: Path) -> None:
    """Evaluates every run of ``config.runs`` and writes ``table.md`` and ``table.csv``.

    Cells that are finished are read from their ``results.json``; the files are written anew after
    every row, so that a table that was stopped (a fine-tuning, by SIGTERM) shows what there is.

    Args:
      config: of ``configs/eval/table.py``: ``cells`` names sections, each the config of a task.
      workdir: where the two files go.

    Raises:
      UserError: no run, or a cell that is none.
    """
    runs = find_runs(config.runs)
    for cell in config.cells:
        if cell not in MEASURES or cell not in config:
            known = ", ".join(name for name in MEASURES if name in config)
            raise UserError(f"cells: {cell!r} must be one of {known}.")
    rows: list[dict[str, Any]] = []
    for run in runs:
        for weights in config.weights:
            cells = {name: _cell(config, name, run, weights) for name in config.cells}
            results = {}
            for name, cell in cells.items():
                results[name] = evaluate(cell, None)
                if results[name] is None:
                    return  # it was told to stop, has saved, and goes on next time
            rows.append(_row(run, weights, results))
            _write(workdir, rows, list(config.cells))
    print(f"{workdir / 'table.md'}:\n\n{markdown(rows, list(config.cells))}")


def find_runs(patterns: str) -> list[Path]:
    """Folders of pre-training runs that match one of the patterns, which commas separate.

    Raises:
      UserError: there is none.
    """
    matched = [path for pattern in patterns.split(",") for path in sorted(glob.glob(pattern))]
    runs = [Path(path) for path in matched if (Path(path) / "checkpoints").is_dir()]
    if not runs:
        raise UserError(
            f"runs={patterns!r} matches no folder with checkpoints; for example "
            "--config.runs='runs/*'."
        )
    return list(dict.fromkeys(runs))


def markdown(rows: list[dict[str, Any]], cells: list[str]) -> str:
    """The table for people; what a column means stands below it."""
    head = ["run", "method", "weights", "step", *cells]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        shown = [row["run"], row["method"], row["weights"], f"{row['step']:,}"]
        lines.append("| " + " | ".join([*shown, *(_shown(row[cell]) for cell in cells)]) + " |")
    for cell in cells:
        for protocol, formula in {r[cell]["protocol"]: r[cell]["formula"] for r in rows}.items():
            lines.append(f"\n{cell}, {protocol}: {formula}.")
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
        numbers = [row[cell].get(part, "") for cell in cells for part in parts]
        writer.writerow([row["run"], row["method"], row["weights"], row["step"], *numbers])
    return text.getvalue()


def _cell(config: ConfigDict, cell: str, run: Path, weights: str) -> ConfigDict:
    inner = config[cell].copy_and_resolve_references()
    inner.checkpoint, inner.weights = str(run), weights
    for key, value in config.data.items():
        if value is not None:
            inner.data[key] = value
    return inner


def _row(run: Path, weights: str, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    first = next(iter(results.values()))
    return {
        "run": run.name,
        "method": first["method"],
        "weights": first["weights"],
        "step": first["step"],
    } | results


def _shown(result: dict[str, Any]) -> str:
    if result["metric"] != "top1":
        return f"{result['value']:.3g}"
    spread = f" +- {100 * result['spread']:.2f}" if "spread" in result else ""
    return f"{100 * result['value']:.2f}{spread}"


def _write(workdir: Path, rows: list[dict[str, Any]], cells: list[str]) -> None:
    with disk_trouble_told(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    write_text(workdir / "table.md", markdown(rows, cells))
    write_text(workdir / "table.csv", comma_separated(rows, cells))
