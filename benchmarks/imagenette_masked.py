"""MAE, LoMaR and LoMaR's released pairing on real images, for about the same time each.

    python -m benchmarks.imagenette_masked --data=/data/imagenette160
    python -m benchmarks.imagenette_masked --data=... --only=mae --seeds=1
    python -m benchmarks.imagenette_masked --data=... -- --config.seed=7  # main.py's flags

Steps are chosen so that each takes about as long: a step of MAE is about half one of LoMaR here,
where the patches are few. Runs are those of main.py in ``--runs``: finished ones are reused,
unfinished ones go on. Each is written to ``--out``/<arm>-<seed>.json. What the encoders are worth,
beside those before training: ``python -m benchmarks.evaluation`` on the run folders.
"""

import json
import statistics
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks.imagenette import run_config
from benchmarks.options import start
from benchmarks.provenance import RESULTS, write_result

# arm -> (config, steps)
ARMS = {
    "mae": ("configs/imagenette_mae.py", 870),
    "lomar": ("configs/imagenette_lomar.py", 440),
    "lomar_released": ("configs/imagenette_lomar.py:released_pairing", 440),
}

OPTIONS = flags.FlagValues()
_DATA = flags.DEFINE_string(
    "data", None, "folder of images with train/ and val/", required=True, flag_values=OPTIONS
)
_OUT = flags.DEFINE_string(
    "out", str(RESULTS / "imagenette_masked_cpu"), "where the numbers go", flag_values=OPTIONS
)
_RUNS = flags.DEFINE_string(
    "runs", "runs/imagenette_masked", "where the run folders are", flag_values=OPTIONS
)
_ONLY = flags.DEFINE_list("only", list(ARMS), "arms", flag_values=OPTIONS)
_SEEDS = flags.DEFINE_integer("seeds", 3, "of each arm", flag_values=OPTIONS)


def arguments_of(arm: str, seed: int, data: str) -> list[str]:
    """main.py's flags of a run, but for the run folder."""
    config, steps = ARMS[arm]
    return [
        f"--config={config}",
        f"--config.train.steps={steps}",
        f"--config.seed={seed}",
        f"--config.data.path={data}",
        "--config.evaluation.knn_every_epochs=0",
    ]


def table(folder: Path) -> str:
    """All results of a folder for the screen: mean and deviation over the seeds of each arm."""
    lines = [f"{'arm':<18}{'seeds':>6}{'k-NN':>16}{'images/s':>10}{'minutes':>9}"]
    for arm in ARMS:
        runs: list[dict[str, Any]] = [
            json.loads(path.read_text()) for path in sorted(folder.glob(f"{arm}-*.json"))
        ]
        if not runs:
            continue
        top1 = [100 * run["knn_top1"] for run in runs]
        spread = f" +- {statistics.stdev(top1):.1f}" if len(top1) > 1 else ""
        rate = statistics.fmean(run["images_per_second"] for run in runs)
        minutes = statistics.fmean(run["wall_seconds"] for run in runs) / 60
        shown = f"{statistics.fmean(top1):.1f} %{spread}"
        lines.append(f"{arm:<18}{len(runs):>6}{shown:>16}{rate:>10.0f}{minutes:>9.1f}")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Trains arm after arm, seed after seed."""
    out, runs, extra = Path(_OUT.value), Path(_RUNS.value), argv[1:]
    if not set(_ONLY.value) <= set(ARMS):
        raise app.UsageError(f"--only takes {', '.join(ARMS)}")
    for seed in range(_SEEDS.value):
        for arm in _ONLY.value:
            arguments = [*arguments_of(arm, seed, _DATA.value), *extra]
            result = {"arm": arm} | run_config(runs / f"{arm}-{seed}", arguments)
            write_result(out / f"{arm}-{seed}.json", result)
            print(table(out), flush=True)


if __name__ == "__main__":
    start(main, OPTIONS)
