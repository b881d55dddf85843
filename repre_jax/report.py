"""A page about runs, written on demand: one run, or several laid over each other."""

from pathlib import Path

import jax
from ml_collections import ConfigDict

from repre_jax.runs.folder import find_runs, saved_config
from repre_jax.visualize.report.page import write_report


def report(config: ConfigDict, workdir: Path | None) -> None:
    """Writes report.html about ``config.runs``, which are only read.

    Args:
      config: of ``configs/report.py``.
      workdir: where the page goes; None for the first run's folder.

    Raises:
      UserError: no run, one that is none, too many, or no such reference.
    """
    runs = find_runs(
        config.runs,
        wanted=lambda path: (path / "config.json").is_file(),
        words="no folder with config.json",
    )
    if jax.process_index() != 0:
        return
    imported = [run for run in runs if (saved_config(run) or {}).get("task") == "import"]
    trained = [run for run in runs if run not in imported]
    if imported and trained:
        names = ", ".join(map(str, imported))
        print(f"Left out, for imported weights have no curves: {names}.")
        runs = trained
    print(f"Report: {write_report(runs, workdir or runs[0], config.reference)}")
