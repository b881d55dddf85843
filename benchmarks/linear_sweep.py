"""What thirteen learning rates cost over one, and a second evaluation over the first.

    python -m benchmarks.linear_sweep --checkpoint=runs/a
    python -m benchmarks.linear_sweep --checkpoint=runs/a -- --config.data.path=/data/imagenette160

Everything is a command in a process of its own. The sweep: whole linear probes, one rate and
thirteen by turns, the frozen forward pass, decoding and validation included. The cache: the first
encodes, the second asks another question of the same features, the third repeats the first.
What follows ``--`` goes to main.py.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import flags

from benchmarks.options import start
from benchmarks.provenance import RESULTS, provenance, write_result
from repre_jax.errors import UserError

OPTIONS = flags.FlagValues()
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "run folder", required=True, flag_values=OPTIONS
)
_EPOCHS = flags.DEFINE_integer("epochs", 2, "epochs of each probe", flag_values=OPTIONS)
_BATCH = flags.DEFINE_integer("batch_size", 512, "training batch", flag_values=OPTIONS)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "measurements of each", flag_values=OPTIONS)
_PARTS = flags.DEFINE_list("parts", ["cache", "sweep"], "what to measure", flag_values=OPTIONS)
_OUT = flags.DEFINE_string(
    "out", str(RESULTS / "linear_sweep.json"), "where the numbers go", flag_values=OPTIONS
)


def run(task: str, folder: Path, *arguments: str) -> dict[str, float]:
    """Seconds of a whole command, and of the evaluation within it."""
    name, _, variant = task.partition(":")
    command = [sys.executable, "main.py", f"--config=configs/eval/{name}.py:{variant}".rstrip(":")]
    command += [f"--config.checkpoint={_CHECKPOINT.value}", f"--workdir={folder}", *arguments]
    started = time.perf_counter()
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        raise UserError(f"{' '.join(command)} did not end well.")
    seconds = time.perf_counter() - started
    results = json.loads((folder / "results.json").read_text())
    return {"command": round(seconds, 2), "evaluation": results["wall_seconds"]}


def measure_cache(folder: Path, extra: list[str]) -> dict:
    """A k-NN that encodes; one of another temperature on its features; the first asked again."""
    first = run("knn", folder / "knn", *extra)
    second = run("knn", folder / "warmer", "--config.temperature=0.1", *extra)
    again = run("knn", folder / "knn", *extra)
    return {
        "first": first,
        "second_on_cached_features": second,
        "finished_one_again": {"command": again["command"]},
        "first_over_second": {key: round(first[key] / second[key], 1) for key in first},
        "first_over_finished": round(first["command"] / again["command"], 1),
    }


def measure_sweep(folder: Path, extra: list[str]) -> dict:
    """Seconds of whole probes, by turns; the first round fills caches and is not counted."""
    probe = [
        f"--config.epochs={_EPOCHS.value}",
        f"--config.train_batch_size={_BATCH.value}",
        f"--config.cache_path={folder / 'features'}",
        *extra,
    ]
    seconds = {"one": [], "thirteen": []}
    for number in range(_ROUNDS.value + 1):
        for name, task in (("one", "linear"), ("thirteen", "linear:sweep")):
            taken = run(task, folder / f"{name}-{number}", *probe)
            if number:
                seconds[name].append(taken["evaluation"])
    ratios = [b / a for a, b in zip(seconds["one"], seconds["thirteen"], strict=True)]
    return {
        "epochs": _EPOCHS.value,
        "batch_size": _BATCH.value,
        "seconds": seconds,
        "thirteen_over_one": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }


def main(argv: list[str]) -> None:
    out, extra = Path(_OUT.value), argv[1:]
    measures = {"cache": measure_cache, "sweep": measure_sweep}
    if not set(_PARTS.value) <= set(measures):
        raise UserError(f"--parts takes {', '.join(measures)}.")
    result = json.loads(out.read_text()) if out.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for name in _PARTS.value:
            measured = measures[name](Path(folder) / name, extra)
            print(json.dumps(measured, indent=2), flush=True)
            result[name] = provenance(in_child=True) | measured
            write_result(out, result)
    print(f"Written to {out}")


if __name__ == "__main__":
    start(main, OPTIONS)
