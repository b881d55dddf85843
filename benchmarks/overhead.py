"""What RePre adds to every row of the paper: operations, and time if asked for.

    python -m benchmarks.overhead                                  # operations: seconds a row
    python -m benchmarks.overhead --time --batch_size=128          # and time, on this device
    python -m benchmarks.overhead --configs=moby_swint,dino_vits --time

Operations are those of loss and gradients (``training/operations.py``) for one image; times are
those of ``step_time``, baseline and RePre taking turns on one batch. Writes
``results/overhead_<device>.json``, ``overhead_operations.json`` without times, after every row;
stopped, the same command goes on from there.
"""

import itertools
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

from benchmarks import step_time
from benchmarks.options import start
from benchmarks.programs import TRAINING_IMAGES
from benchmarks.provenance import (
    RESULTS,
    finished_rows,
    in_file_names,
    provenance,
    save_result,
)
from repre_jax.config_files import read_config
from repre_jax.errors import UserError
from repre_jax.sharding import make_mesh
from repre_jax.training.learner import build_learner
from repre_jax.training.operations import step_multiply_adds
from repre_jax.training.resolution import resolve

BACKBONES = ("vits", "vitb", "swint")
METHODS = ("simclr", "byol", "simsiam", "moco_v2", "moco_v3", "moby", "dino")  # of the paper
ROWS = [f"{method}_{backbone}" for backbone, method in itertools.product(BACKBONES, METHODS)]

OPTIONS = flags.FlagValues()
_CONFIGS = flags.DEFINE_list("configs", ROWS, "names of configs", flag_values=OPTIONS)
_WIDTHS = flags.DEFINE_list(
    "widths", ["literal", "128"], "decoder widths: literal, or channels", flag_values=OPTIONS
)
_TIME = flags.DEFINE_bool("time", False, "measure the step, too", flag_values=OPTIONS)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 4, "images a step", lower_bound=2, flag_values=OPTIONS
)
_STEPS = flags.DEFINE_integer(
    "steps", 3, "steps of a measurement", lower_bound=1, flag_values=OPTIONS
)
_ROUNDS = flags.DEFINE_integer(
    "rounds", 5, "measurements of each variant", lower_bound=1, flag_values=OPTIONS
)


def operations(config: ConfigDict, widths: list[str]) -> dict[str, Any]:
    """Operations of a train step for one image, without RePre and with it at every width."""
    config.train.batch_size = 2
    flops = {}
    for name, variant in step_time.variants(config, widths).items():
        learner = build_learner(variant, resolve(variant, images=TRAINING_IMAGES, devices=1))
        flops[name] = step_multiply_adds(learner, 2)  # of two images: an operation is half of it
    baseline = flops["baseline"]
    row = {"baseline_gflop": round(baseline / 1e9, 3)}
    for name, total in flops.items():
        if name != "baseline":
            row[name] = {
                "decoder_gflop": round((total - baseline) / 1e9, 3),
                "flops_over_baseline": round(total / baseline, 4),
            }
    return row


def add_times(row: dict[str, Any], config: ConfigDict) -> None:
    """Adds what the measured step says to a row of ``operations``."""
    config.train.batch_size = _BATCH_SIZE.value
    result = step_time.benchmark(
        config,
        make_mesh(config.train.devices),
        widths=_WIDTHS.value,
        steps=_STEPS.value,
        rounds=_ROUNDS.value,
    )
    baseline, *others = result["variants"]
    row["baseline_ms"] = baseline["ms_per_step"]
    for variant in others:
        over = variant["over_baseline"]
        row[variant["name"]]["time_over_baseline"] = over["time"]
        row[variant["name"]]["time_lowest_and_highest"] = over["time_lowest_and_highest"]


def table(rows: dict[str, Any], widths: list[str]) -> str:
    """The result for the screen."""
    lines = [f"{'config':<16}{'GFLOP an image':>15}" + "".join(f"{w:>36}" for w in widths)]
    for name, row in rows.items():
        line = f"{name:<16}{row['baseline_gflop']:>15.1f}"
        for width in widths:
            cell = row[f"repre_{width}"]
            text = f"FLOPs x {cell['flops_over_baseline']:.3f}"
            if "time_over_baseline" in cell:
                text += f", time x {cell['time_over_baseline']:.3f}"
            line += f"{text:>36}"
        lines.append(line)
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    del argv
    device = in_file_names(jax.devices()[0].device_kind)
    result = provenance() | {"batch_size": _BATCH_SIZE.value if _TIME.value else None}
    # Operations alone are the same on every device.
    name = f"overhead_{device}" if _TIME.value else "overhead_operations"
    rows = result["rows"] = finished_rows(RESULTS / f"{name}.json", result, _CONFIGS.value)
    for name in _CONFIGS.value:
        if name not in ROWS:
            raise UserError(f"--configs={name} must be among {', '.join(ROWS)}.")
        if name not in rows:
            config = read_config(name)
            row = operations(config, _WIDTHS.value)
            if _TIME.value:
                add_times(row, config)
            rows[name] = row
        path = save_result(name, result)
        print(table({name: rows[name]}, _WIDTHS.value).splitlines()[-1], flush=True)
    print(table(rows, _WIDTHS.value))
    print(f"Written to {path}")


if __name__ == "__main__":
    start(main, OPTIONS)
