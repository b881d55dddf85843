"""What RePre gains on real images in a small budget, method by method, row by row.

    python -m benchmarks.imagenette --data=/data/imagenette160
    python -m benchmarks.imagenette --data=... --only=moby,byol --rows=baseline,learned
    python -m benchmarks.imagenette --data=... --only=moby --variants=swin --runs=... --out=...
    python -m benchmarks.imagenette --data=... -- --config.train.steps=4     # main.py's flags

Rows, all of one seed and budget: "baseline" without RePre; "learned" with learned weights;
"fixed" with both weights 1; "converged" with the weights at which the learned ones would come to
rest, 1 / (2 contrast) and 1 / reconstruct at the losses that the learned row ends with. Beside
them stand raw pixels and the encoder before training.

Rows are runs of main.py in ``--runs``: run this again and finished ones are reused, unfinished
ones go on. Each is written to a file of its own, ``--out``/<method>-<row>.json; the table on the
screen is made of all files there.
"""

import json
import math
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks.options import start
from benchmarks.plot_weights import LOSSES, can_be_drawn, draw_weights
from benchmarks.provenance import RESULTS, provenance, write_result
from repre_jax.errors import UserError
from repre_jax.methods import METHODS

ROWS = ("baseline", "learned", "fixed", "converged")

OPTIONS = flags.FlagValues()
_DATA = flags.DEFINE_string(
    "data", None, "folder of images with train/ and val/", required=True, flag_values=OPTIONS
)
_OUT = flags.DEFINE_string(
    "out", str(RESULTS / "imagenette_cpu"), "folder where the numbers go", flag_values=OPTIONS
)
_RUNS = flags.DEFINE_string(
    "runs", "runs/imagenette", "where the run folders are", flag_values=OPTIONS
)
_ONLY = flags.DEFINE_list("only", ["dino", "moco_v3"], "methods", flag_values=OPTIONS)
_ROWS = flags.DEFINE_list("rows", list(ROWS), "rows of each method", flag_values=OPTIONS)
_VARIANTS = flags.DEFINE_list(
    "variants", [], "variants of the configs: swin, gpu", flag_values=OPTIONS
)

_CURVES = re.compile(
    "step|loss(/.*)?|weight/.*|encoder_grad_norm/.*|grad_norm|knn/.*|feature_std|effective_rank"
    "|val/.*|teacher_entropy|learning_rate"
)
_HEALTH = (
    "feature_std",
    "effective_rank",
    "val/feature_std",
    "val/effective_rank",
    "teacher_entropy",
)
_ROWS_AT_THE_END = 10  # log rows over which the learned row's last losses are averaged


def config_name(method: str, *variants: str) -> str:
    """The value of --config for a method."""
    named = ",".join([*_VARIANTS.value, *variants])
    return f"configs/imagenette_{method}.py" + (f":{named}" if named else "")


def row_arguments(method: str, row: str, runs: Path) -> list[str]:
    """main.py's flags of a row, but for data and run folder.

    Raises:
      UserError: the converged row is asked for before the learned one is finished.
    """
    if row == "baseline":
        return [f"--config={config_name(method, 'baseline')}"]
    arguments = [f"--config={config_name(method)}", "--config.logging.loss_gradients=True"]
    if row == "learned":
        return [*arguments, "--config.repre.weighting=learned"]
    weights = (1.0, 1.0) if row == "fixed" else converged_weights(runs / f"{method}-learned")
    values = ",".join(f"{value:.6g}" for value in weights)
    return [
        *arguments,
        "--config.repre.weighting=fixed",
        f"--config.repre.fixed_weights=({values})",
    ]


def converged_weights(run: Path) -> tuple[float, float]:
    """Optimum of the learned weights (losses/weighting.py) at the losses that a run ends with.

    Raises:
      UserError: the run is not finished.
    """
    if read_summary(run) is None:
        raise UserError(f"{run} is not finished: the converged row needs the learned one.")
    rows = read_rows(run)[-_ROWS_AT_THE_END:]
    contrast, reconstruct = (statistics.fmean(row[f"loss/{x}"] for row in rows) for x in LOSSES)
    return 1 / (2 * contrast), 1 / reconstruct


def run_row(method: str, row: str, runs: Path, extra: Sequence[str]) -> dict[str, Any]:
    """Trains a row unless it is finished, and returns its numbers; see ``run_config``."""
    data = f"--config.data.path={_DATA.value}"
    arguments = [*row_arguments(method, row, runs), data, *extra]
    return {"method": method, "row": row} | run_config(runs / f"{method}-{row}", arguments)


def run_config(folder: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """Trains a run unless it is finished, and returns its numbers.

    "starts" has the provenance of every process that trained at it.

    Args:
      folder: of the run.
      arguments: main.py's flags, but for the folder.

    Raises:
      UserError: main.py did not end well; it has said why.
    """
    starts = folder.with_name(folder.name + "-starts.jsonl")
    arguments = [*arguments, f"--workdir={folder}"]
    if read_summary(folder) is None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with open(starts, "a") as file:
            file.write(json.dumps(provenance(in_child=True)) + "\n")
    # A finished run says so and ends; one of another config is refused.
    if subprocess.run([sys.executable, "main.py", *arguments]).returncode:
        raise UserError(f"{folder.name} did not finish; this command goes on where it stopped.")
    summary = read_summary(folder)
    if summary is None:  # stopped by a signal
        raise UserError(f"{folder.name} was stopped; this command goes on from there.")
    return {
        "command": shlex.join(["python", "main.py", *arguments]),
        "starts": [json.loads(x) for x in starts.read_text().splitlines()]
        if starts.exists()
        else [],
        "seed": json.loads((folder / "config.json").read_text())["seed"],
        "knn_top1": summary["knn/top1"],
        "steps": summary["steps"],
        "wall_seconds": round(summary["wall_seconds"], 1),
        "images_per_second": round(summary["images_per_second"], 1),
        "params_sha256": summary["params_sha256"],
        "health": {key: rounded(summary[key]) for key in _HEALTH if key in summary},
        "curves": curves(read_rows(folder)),
    }


def curves(rows: Sequence[dict[str, Any]]) -> dict[str, list[float | None]]:
    """Logged rows turned into one list for each quantity worth a curve; None where not logged."""
    names = sorted({key for row in rows for key in row if _CURVES.fullmatch(key)})
    return {name: [rounded(row.get(name)) for row in rows] for name in names}


def rounded(value: float | None) -> float | None:
    """Five significant digits."""
    return None if value is None else float(f"{value:.5g}")


def read_summary(run: Path) -> dict[str, Any] | None:
    """What a finished run wrote, else None."""
    try:
        summary = json.loads((run / "summary.json").read_text())
    except (OSError, ValueError):
        return None
    return summary if summary.get("finished") else None


def read_rows(run: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def measure_untrained(method: str, runs: Path, extra: Sequence[str]) -> dict[str, Any]:
    """Numbers of raw pixels and of the encoder before training, from ``untrained``."""
    path = runs / f"{method}-untrained.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    arguments = [f"--config={config_name(method)}", f"--config.data.path={_DATA.value}", *extra]
    command = [sys.executable, "-m", "benchmarks.untrained", str(path), *arguments]
    if subprocess.run(command).returncode:
        raise UserError(f"The untrained encoder of {method} could not be measured.")
    return provenance(in_child=True) | json.loads(path.read_text())


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """{method: {"untrained": ..., row: ...}} of the files in a folder of results."""
    results = {}
    for method in METHODS:
        paths = {name: folder / f"{method}-{name}.json" for name in ("untrained", *ROWS)}
        found = {name: json.loads(p.read_text()) for name, p in paths.items() if p.exists()}
        if found:
            results[method] = found
    return results


def with_gains(run: dict[str, Any], method: dict[str, Any]) -> dict[str, Any]:
    """A row and what it gains over what it is compared with, in points, sign and all.

    Args:
      run: of ``run_row``.
      method: of ``read_results``, "untrained" and perhaps "baseline" in it.
    """
    compared = {name: method["untrained"][name]["knn/top1"] for name in ("random", "pixels")}
    if run["row"] != "baseline" and "baseline" in method:
        compared["baseline"] = method["baseline"]["knn_top1"]
    top1, images = run["knn_top1"], method["untrained"]["val_images"]
    return run | {
        "gain_points": {name: round(100 * (top1 - x), 2) for name, x in compared.items()},
        "standard_error_points": round(100 * math.sqrt(top1 * (1 - top1) / images), 2),
    }


def table(methods: dict[str, Any]) -> str:
    """The results for the screen."""
    lines = [
        f"{'method':<10}{'row':<16}{'k-NN':>8}{'over random':>13}{'over baseline':>15}"
        f"{'std':>8}{'rank':>7}{'weights at the end':>21}{'images/s':>10}{'minutes':>9}"
    ]
    for name, method in methods.items():
        for label in ("pixels", "random"):
            top1 = method["untrained"][label]["knn/top1"]
            lines.append(f"{name:<10}{label:<16}{top1:>8.1%}")
        for label in (row for row in ROWS if row in method):
            run = method[label]
            gains, curve, health = run["gain_points"], run["curves"], run["health"]
            ends = [curve[f"weight/{x}"][-1] for x in LOSSES if f"weight/{x}" in curve]
            lines.append(
                f"{name:<10}{label:<16}{run['knn_top1']:>8.1%}{gains['random']:>+13.1f}"
                + (f"{gains['baseline']:>+15.1f}" if "baseline" in gains else f"{'':>15}")
                + f"{health['val/feature_std']:>8.3f}{health['val/effective_rank']:>7.0f}"
                f"{' : '.join(f'{value:.3g}' for value in ends):>21}"
                f"{run['images_per_second']:>10.0f}{run['wall_seconds'] / 60:>9.1f}"
            )
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    out, runs, extra = Path(_OUT.value), Path(_RUNS.value), argv[1:]
    for name, chosen, known in (("only", _ONLY.value, METHODS), ("rows", _ROWS.value, ROWS)):
        if not set(chosen) <= set(known):
            raise app.UsageError(f"--{name} takes {', '.join(known)}")
    for method in _ONLY.value:
        write_result(out / f"{method}-untrained.json", measure_untrained(method, runs, extra))
        for row in (row for row in ROWS if row in _ROWS.value):
            run = run_row(method, row, runs, extra)
            run = with_gains(run, read_results(out)[method])
            write_result(out / f"{method}-{row}.json", run)
            print(table(read_results(out)), flush=True)
        drawn = read_results(out)[method]
        if all(can_be_drawn(drawn.get(row)) for row in ("learned", "converged")):
            print(f"Drawn: {draw_weights(out, method)}")
    print(f"Written to {out}")


if __name__ == "__main__":
    start(main, OPTIONS)
