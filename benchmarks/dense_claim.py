"""Whether reconstruction is worth anything to dense tasks: the study of ``dense_claim.md``.

    python -m benchmarks.dense_claim --data=/data/imagenette160
    python -m benchmarks.dense_claim --data=... --only='dino-.*-0'

Runs are those of main.py in ``--runs``, one seed after the other: finished ones are reused,
unfinished ones go on. Each is written to ``results/dense_claim/<arm>-<seed>.json``, and the run
that has its file there is not made again.
"""

import json
import re
from pathlib import Path

from absl import flags

from benchmarks.imagenette import converged_weights, run_config
from benchmarks.options import start
from benchmarks.provenance import RESULTS, write_result
from repre_jax.errors import UserError

OPTIONS = flags.FlagValues()
_DATA = flags.DEFINE_string(
    "data", None, "folder of Imagenette's images", required=True, flag_values=OPTIONS
)
_OUT = flags.DEFINE_string(
    "out", str(RESULTS / "dense_claim"), "folder where the numbers go", flag_values=OPTIONS
)
_RUNS = flags.DEFINE_string(
    "runs", "runs/dense_claim", "where the run folders are", flag_values=OPTIONS
)
_ONLY = flags.DEFINE_string(
    "only", "", "regular expression of the runs to make", flag_values=OPTIONS
)

EPOCHS = {"moco_v3": 5, "dino": 5}
VARIANTS = ("baseline", "learned", "converged", "windows")
MASKED_STEPS = {"mae": 870, "lomar": 440}
SEEDS = (0, 1, 2)

LEARNED = ["--config.repre.weighting=learned"]
WINDOWS = [*LEARNED, "--config.repre.branch=windows", "--config.repre.windows.side=4"]


def names() -> list[str]:
    """Every run, "<arm>-<seed>", in the order in which they are made."""
    contrastive = [f"{method}-{variant}" for method in EPOCHS for variant in VARIANTS]
    arms = [[*contrastive, *MASKED_STEPS], contrastive, contrastive]
    return [f"{arm}-{seed}" for seed in SEEDS for arm in arms[seed]]


def training_arguments(name: str, data: str, runs: Path) -> list[str]:
    """main.py's flags of a run, but for the run folder.

    Raises:
      UserError: a converged arm is asked for before the learned one of its seed is finished.
    """
    arm, seed = name.rsplit("-", 1)
    method, _, variant = arm.partition("-")
    config = f"configs/imagenette_{method}.py" + (":baseline" if variant == "baseline" else "")
    arguments = [f"--config={config}", f"--config.data.path={data}", f"--config.seed={seed}"]
    arguments += ["--config.model.patch_size=8", "--config.evaluation.knn_every_epochs=0"]
    if method in MASKED_STEPS:
        return [*arguments, f"--config.train.steps={MASKED_STEPS[method]}"]
    arguments.append(f"--config.train.epochs={EPOCHS[method]}")
    if variant == "converged":
        weights = converged_weights(runs / f"{method}-learned-{seed}")
        values = ",".join(f"{value:.6g}" for value in weights)
        fixed = ["--config.repre.weighting=fixed", f"--config.repre.fixed_weights=({values})"]
        return [*arguments, *fixed]
    return arguments + {"baseline": [], "learned": LEARNED, "windows": WINDOWS}[variant]


def main(argv: list[str]) -> None:
    del argv
    out, runs = Path(_OUT.value), Path(_RUNS.value)
    wanted = [name for name in names() if re.search(_ONLY.value, name)]
    if not wanted:
        raise UserError(f"--only={_ONLY.value} matches no run.")
    for name in wanted:
        path = out / f"{name}.json"
        if path.exists():
            continue
        trained = run_config(runs / name, training_arguments(name, _DATA.value, runs))
        write_result(path, {"name": name} | trained)
        print(json.dumps({"name": name, "knn_top1": trained["knn_top1"]}), flush=True)


if __name__ == "__main__":
    start(main, OPTIONS)
