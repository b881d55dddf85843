"""Whether reconstruction is worth anything to dense tasks: the study of ``dense_claim.md``.

    python -m benchmarks.dense_claim --data=/data/imagenette160 --camvid=/data/camvid
    python -m benchmarks.dense_claim --data=... --camvid=... --only='dino-.*-0'
    python -m benchmarks.dense_claim --table

Runs are those of main.py in ``--runs``, one seed after the other, each with its evaluations:
finished ones are reused, unfinished ones go on. Each is written to
``results/dense_claim/<arm>-<seed>.json``, and one that has its file there is not made again;
"<method>-untrained-0" is the encoder before training, of the run without RePre.
"""

import json
import math
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks.imagenette import converged_weights, run_config
from benchmarks.options import start
from benchmarks.provenance import RESULTS, provenance, write_result
from repre_jax.errors import UserError

OPTIONS = flags.FlagValues()
_DATA = flags.DEFINE_string("data", "", "folder of Imagenette's images", flag_values=OPTIONS)
_CAMVID = flags.DEFINE_string("camvid", "", "folder of CamVid", flag_values=OPTIONS)
_OUT = flags.DEFINE_string(
    "out", str(RESULTS / "dense_claim"), "folder where the numbers go", flag_values=OPTIONS
)
_RUNS = flags.DEFINE_string(
    "runs", "runs/dense_claim", "where the run folders are", flag_values=OPTIONS
)
_ONLY = flags.DEFINE_string(
    "only", "", "regular expression of the runs to make", flag_values=OPTIONS
)
_TABLE = flags.DEFINE_bool(
    "table", False, "show what was measured, run nothing", flag_values=OPTIONS
)

EPOCHS = {"moco_v3": 5, "dino": 5}
VARIANTS = ("baseline", "learned", "converged", "windows")
MASKED_STEPS = {"mae": 870, "lomar": 440}
SEEDS = (0, 1, 2)

_OF_RESULTS = ("metric", "value", "metrics", "wall_seconds", "commit", "compute_dtype")

LEARNED = ["--config.repre.weighting=learned"]
WINDOWS = [*LEARNED, "--config.repre.branch=windows", "--config.repre.windows.side=4"]


def names() -> list[str]:
    """Every run, "<arm>-<seed>", in the order in which they are made."""
    contrastive = [f"{method}-{variant}" for method in EPOCHS for variant in VARIANTS]
    untrained = [f"{method}-untrained" for method in (*EPOCHS, *MASKED_STEPS)]
    arms = [[*contrastive, *MASKED_STEPS, *untrained], contrastive, contrastive]
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


def instruments(name: str, camvid: str) -> dict[str, list[str]]:
    """main.py's flags of every evaluation of a run, but for checkpoint and folder."""
    arm, seed = name.rsplit("-", 1)
    dense = [f"--config.data.path={camvid}"]
    probe = ["--config.epochs=6"]
    if arm.partition("-")[0] in MASKED_STEPS:
        # Their protocol warms up for ten epochs, and its batch is larger than the training set.
        probe = ["--config.epochs=12", "--config.train_batch_size=1024"]
    # A run writes the state of its features at its end.
    health = {"health": ["--config=configs/eval/health.py"]} if arm.endswith("untrained") else {}
    return {
        "dense_knn": ["--config=configs/eval/dense_knn.py", "--config.memory=50000", *dense],
        "propagation": [
            "--config=configs/eval/propagation.py",
            "--config.beside_random=False",
            *dense,
        ],
        "setr": [
            "--config=configs/segment/camvid_setr_vits.py:cpu",
            f"--config.seed={seed}",
            *dense,
        ],
        "knn": ["--config=configs/eval/knn.py"],
        "linear": ["--config=configs/eval/linear.py:sweep", *probe],
        **health,
    }


def measure(name: str, run: Path, camvid: str, extra: Sequence[str] = ()) -> dict[str, Any]:
    """What each instrument says of a run: {instrument: {"command", "value", "metrics"}}.

    Raises:
      UserError: an evaluation did not end well; it has said why.
    """
    found = {}
    for instrument, arguments in instruments(name, camvid).items():
        folder = run.with_name(f"{name}-{instrument}")
        command = [*arguments, *extra, f"--config.checkpoint={run}", f"--workdir={folder}"]
        if subprocess.run([sys.executable, "main.py", *command]).returncode:
            raise UserError(f"{folder.name} did not finish; this command goes on where it stopped.")
        results = folder / "results.json"
        if not results.exists():  # stopped by a signal
            raise UserError(f"{folder.name} was stopped; this command goes on from there.")
        measured = json.loads(results.read_text())
        found[instrument] = {
            "command": shlex.join(["python", "main.py", *command]),
            **{key: measured[key] for key in _OF_RESULTS},
        }
    return found


def make(name: str, runs: Path) -> dict[str, Any]:
    """Trains and measures a run, or measures the encoder before training."""
    arm, seed = name.rsplit("-", 1)
    method, _, variant = arm.partition("-")
    if variant == "untrained":
        trained = f"{method}-{seed}" if method in MASKED_STEPS else f"{method}-baseline-{seed}"
        run, extra = runs / trained, ["--config.weights=random"]
        made = provenance(in_child=True)
    else:
        run, extra = runs / name, []
        made = run_config(run, training_arguments(name, _DATA.value, runs))
    return {"name": name} | made | {"measured": measure(name, run, _CAMVID.value, extra)}


def _of_block(instrument: str, block: str) -> Callable[[dict[str, Any]], float]:
    return lambda found: found[instrument]["metrics"]["blocks"][block]["mean_iou"]


def _value_of(instrument: str) -> Callable[[dict[str, Any]], float]:
    return lambda found: found[instrument]["value"]


# Instrument and block -> its value in a result; the first is the study's primary outcome.
OUTCOMES = {
    f"{instrument}, block {block}": _of_block(instrument, block)
    for instrument in ("dense_knn", "propagation")
    for block in ("3", "2", "1", "0", "fused")
} | {instrument: _value_of(instrument) for instrument in ("setr", "knn", "linear")}


def table(results: Mapping[str, dict[str, Any]]) -> str:
    """Differences to the baseline within a seed, of what has been made so far.

    Args:
      results: "<arm>-<seed>" -> result file.
    """
    lines = []
    for title, value_of in OUTCOMES.items():
        values = {name: 100 * value_of(result["measured"]) for name, result in results.items()}
        lines.append(title)
        lines += [
            f"  {arm:<22}{statistics.fmean(own):6.2f}  ({', '.join(f'{x:.2f}' for x in own)})"
            for arm in dict.fromkeys(name.rsplit("-", 1)[0] for name in values)
            if (own := [x for name, x in values.items() if name.rsplit("-", 1)[0] == arm])
        ]
        if title == next(iter(OUTCOMES)):
            lines.append(f"  the primary outcome: {verdict(differences(values, 'converged'))}")
        for variant in VARIANTS[1:]:
            lines.append(f"  {variant} - baseline: {described(differences(values, variant))}")
            lines += [
                f"    {method}: {described(differences(values, variant, (method,)))}"
                for method in EPOCHS
            ]
    lines.append("not finite, or collapsed to a tenth of the deviation before training")
    lines += [f"  {line}" for line in troubles(results)] or ["  none that is known"]
    lines.append("commits of the code that trained; what measured is of the same where it is known")
    lines += [f"  {commit}: {', '.join(of)}" for commit, of in commits(results).items()]
    lines.append("minutes of training, beside whatever else the machine did")
    lines += [
        f"  {name:<22}{result['wall_seconds'] / 60:6.1f}"
        for name, result in results.items()
        if "wall_seconds" in result
    ]
    return "\n".join(lines)


def differences(
    values: Mapping[str, float], variant: str, methods: Sequence[str] = tuple(EPOCHS)
) -> list[float]:
    """Of a variant and the baseline of the same method and seed, where both are there."""
    return [
        values[f"{method}-{variant}-{seed}"] - values[f"{method}-baseline-{seed}"]
        for method in methods
        for seed in SEEDS
        if {f"{method}-{variant}-{seed}", f"{method}-baseline-{seed}"} <= set(values)
    ]


def troubles(results: Mapping[str, dict[str, Any]]) -> list[str]:
    """Runs of which the page asks that they are named, and what cannot be said yet."""
    lines = []
    for name, result in results.items():
        health, method = result.get("health"), name.partition("-")[0]
        if health is None:  # before training
            continue
        deviation = health.get("val/feature_std")
        before = results.get(f"{method}-untrained-0")
        if deviation is None or None in result["curves"]["loss"]:
            lines.append(f"{name}: not finite")
        elif before is None:
            lines.append(f"{name}: its encoder before training is not measured")
        elif deviation < before["measured"]["health"]["metrics"]["feature_std"] / 10:
            lines.append(f"{name}: collapsed, {deviation:.2g}")
    return lines


def commits(results: Mapping[str, dict[str, Any]]) -> dict[str, list[str]]:
    """{commit: the runs that were trained, begun or measured with it}; one, if all is well."""
    found: dict[str, list[str]] = {}
    for name, result in results.items():
        parts = [result, *result.get("starts", []), *result["measured"].values()]
        for commit in dict.fromkeys(part["commit"] for part in parts if "commit" in part):
            found.setdefault(commit, []).append(name)
    return found


def verdict(found: Sequence[float]) -> str:
    """What the six differences of the primary outcome say, by the rule of the page."""
    pairs = len(EPOCHS) * len(SEEDS)
    if len(found) < pairs:
        return f"{len(found)} of {pairs} pairs are there"
    mean, half = _interval(found)
    return "not seen at this budget" if abs(mean) <= half else "a gain" if mean > 0 else "a loss"


# Two-sided 95 % points of Student's t by degrees of freedom.
_STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571}


def described(found: Sequence[float]) -> str:
    """Mean of differences, its interval, and the effect size."""
    if len(found) < 2:
        return f"{len(found)} pair(s): {', '.join(f'{x:+.2f}' for x in found)}"
    (mean, half), deviation = _interval(found), statistics.stdev(found)
    effect = mean / deviation if deviation else math.nan
    return (
        f"{mean:+.2f} points, 95 % interval {mean - half:+.2f} to {mean + half:+.2f}, effect "
        f"{effect:+.2f}, {len(found)} pairs: {', '.join(f'{x:+.2f}' for x in found)}"
    )


def _interval(found: Sequence[float]) -> tuple[float, float]:
    """(mean, half of its two-sided 95 % interval)."""
    half = _STUDENT[len(found) - 1] * statistics.stdev(found) / math.sqrt(len(found))
    return statistics.fmean(found), half


def main(argv: list[str]) -> None:
    del argv
    out, runs = Path(_OUT.value), Path(_RUNS.value)
    wanted = [name for name in names() if re.search(_ONLY.value, name)]
    if not wanted:
        raise UserError(f"--only={_ONLY.value} matches no run.")
    if not _TABLE.value and not (_DATA.value and _CAMVID.value):
        raise UserError("The runs need --data and --camvid; --table shows what was measured.")
    for name in [] if _TABLE.value else wanted:
        path = out / f"{name}.json"
        if not path.exists():
            write_result(path, make(name, runs))
            print(f"Written to {path}", flush=True)
    paths = [out / f"{name}.json" for name in names()]
    print(table({path.stem: json.loads(path.read_text()) for path in paths if path.exists()}))


if __name__ == "__main__":
    start(main, OPTIONS)
