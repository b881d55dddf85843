"""What a train step costs, and what RePre adds to it: time, operations, memory, compilation.

    python -m benchmarks.step_time --config=configs/moco_v3_vits.py --batch_size=128
    python -m benchmarks.step_time --config=configs/dino_vits.py --devices=8 --widths=literal,128

Trains the config's real step, augmentation included, on one synthetic batch that stays on the
device: without RePre and with it, for every decoder width asked for ("literal" is the encoder's).
The variants take turns, so that a machine whose speed drifts changes no ratio. ``--devices`` on a
CPU means simulated devices. Writes ``results/step_time_<config>_<device>.json``.
"""

import copy
import dataclasses
import functools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from clu.parameter_overview import count_parameters
from jax.sharding import Mesh
from ml_collections import ConfigDict

from benchmarks.programs import TRAINING_IMAGES
from benchmarks.provenance import in_file_names, provenance, save_result
from repre_jax import command_line
from repre_jax.data.device.augment import augment_views
from repre_jax.errors import UserError
from repre_jax.sharding import by_row, make_mesh, replicated
from repre_jax.training.accelerators import peak_flops_per_second
from repre_jax.training.compiled import abstract_batch, jitted_step, memory_bytes
from repre_jax.training.learner import Learner, TrainState, build_learner
from repre_jax.training.operations import step_multiply_adds
from repre_jax.training.placement import Placement
from repre_jax.training.resolution import resolve

flags.DEFINE_integer("batch_size", None, "images a step; default: 4 a device on a CPU, else 128")
flags.DEFINE_integer("image_size", None, "side of a global view in pixels; default: the config's")
flags.DEFINE_integer("devices", None, "devices that share a step; default: the config's")
flags.DEFINE_integer("steps", 3, "steps of a measurement", lower_bound=1)
flags.DEFINE_integer("rounds", 5, "measurements of each variant", lower_bound=1)
flags.DEFINE_list("widths", ["literal", "128"], "decoder widths: literal, or channels")

_ROWS_PER_DEVICE = {"cpu": 4, "gpu": 128, "tpu": 128}


@dataclasses.dataclass
class Program:
    """A compiled train step with its state.

    Attributes:
      learner: what it trains.
      step: the jitted train step, as ``pretrain`` makes it.
      state: where training has come to; donated to the next step.
      compiled: the executable, for XLA's own account of it.
      trace_seconds, compile_seconds: that it took to make.
    """

    learner: Learner
    step: Callable[[TrainState, Any], tuple[TrainState, Any]]
    state: TrainState
    compiled: jax.stages.Compiled
    trace_seconds: float
    compile_seconds: float

    def run(self, batch: dict[str, jax.Array], steps: int) -> float:
        """Takes so many steps and returns the seconds of one."""
        start = time.perf_counter()
        for _ in range(steps):
            self.state, metrics = self.step(self.state, batch)
        jax.block_until_ready((self.state, metrics))
        return (time.perf_counter() - start) / steps


def benchmark(
    config: ConfigDict, mesh: Mesh, *, widths: Sequence[str], steps: int, rounds: int
) -> dict[str, Any]:
    """Measures the baseline and RePre at every decoder width.

    Args:
      config: of a pre-training run; whether it enables RePre makes no difference.
      mesh: devices that share a step.
      widths: "literal" or a number of channels.
      steps: of one measurement.
      rounds: measurements of each variant.

    Returns:
      What the result file holds besides the provenance; README.md explains the fields.

    Raises:
      UserError: numbers of the config that do not fit together.
    """
    programs, batch = {}, None
    for name, variant in variants(config, widths).items():
        images = max(TRAINING_IMAGES, config.train.batch_size)
        resolution = resolve(variant, images=images, devices=mesh.size)
        learner = build_learner(variant, resolution)
        batch = batch or synthetic_batch(learner, resolution.batch_size, mesh)
        programs[name] = make_program(learner, batch, mesh)
    augment = make_augmentation(programs["baseline"].learner, batch)
    seconds = take_turns(
        {name: functools.partial(program.run, batch, steps) for name, program in programs.items()}
        | {"augmentation": augment},
        rounds,
    )
    kind = mesh.devices.flat[0].device_kind
    peak = peak_flops_per_second(kind, resolution.compute_dtype.name)
    rows = [
        describe(name, program, seconds[name], resolution.batch_size, mesh.size, peak)
        for name, program in programs.items()
    ]
    add_overheads(rows, seconds)
    return {
        "batch_size": resolution.batch_size,
        "image_size": config.model.image_size,
        "compute_dtype": resolution.compute_dtype.name,
        "accumulate": config.train.accumulate,
        "device": {
            "kind": kind,
            "count": mesh.size,
            "simulated": mesh.size > 1 and jax.default_backend() == "cpu",
            "peak_flops_per_second": peak,
        },
        "steps_per_measurement": steps,
        "measurements": rounds,
        "variants": rows,
        "augmentation": {
            "ms": _ms(statistics.median(seconds["augmentation"])),
            "share_of_step": {
                name: _paired(seconds["augmentation"], seconds[name]) for name in programs
            },
        },
        "device_memory_stats": mesh.devices.flat[0].memory_stats(),
    }


def variants(config: ConfigDict, widths: Sequence[str]) -> dict[str, ConfigDict]:
    """{"baseline", "repre_<width>", ...}: the same run without RePre and with it.

    Raises:
      UserError: a width that is neither "literal" nor a number.
    """
    made = {"baseline": copy.deepcopy(config)}
    made["baseline"].repre.enabled = False
    for width in widths:
        if width != "literal" and not (width.isdigit() and int(width)):
            raise UserError(f"--widths={width} must be literal or a number of channels.")
        made[f"repre_{width}"] = variant = copy.deepcopy(config)
        variant.repre.enabled = True
        variant.repre.decoder.width = None if width == "literal" else int(width)
    return made


def synthetic_batch(learner: Learner, batch_size: int, mesh: Mesh) -> dict[str, jax.Array]:
    """A batch of noise in the form in which the pipeline hands batches to the step."""
    rng = np.random.default_rng(0)
    shapes = abstract_batch(learner, batch_size)
    batch = {name: np.zeros(x.shape, x.dtype) for name, x in shapes.items()}
    for name in {"global", "local"} & set(batch):
        batch[name] = rng.integers(0, 256, batch[name].shape, np.uint8)
    batch["index"] = np.arange(batch_size, dtype=np.int32)
    return jax.device_put(batch, by_row(mesh))


def make_program(learner: Learner, batch: dict[str, jax.Array], mesh: Mesh) -> Program:
    """Compiles a train step and takes it once."""
    state = jax.jit(learner.init, out_shardings=replicated(mesh))()
    step = jitted_step(learner, Placement(mesh))
    start = time.perf_counter()
    lowered = step.lower(state, batch)
    traced = time.perf_counter()
    compiled = lowered.compile()
    done = time.perf_counter()
    program = Program(learner, step, state, compiled, traced - start, done - traced)
    program.run(batch, 1)
    return program


def make_augmentation(learner: Learner, batch: dict[str, jax.Array]) -> Callable[[], float]:
    """A function that augments the batch, as a program by itself, and returns the seconds."""
    augment = jax.jit(
        functools.partial(augment_views, recipe=learner.method.views, seed=learner.seed)
    )
    jax.block_until_ready(augment(batch))

    def run() -> float:
        start = time.perf_counter()
        jax.block_until_ready(augment(batch))
        return time.perf_counter() - start

    return run


def take_turns(measure: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Every measurement once a round, starting with another one each time."""
    names = list(measure)
    seconds = {name: [] for name in names}
    for k in range(rounds):
        first = k % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(measure[name]())
    return seconds


def describe(
    name: str,
    program: Program,
    seconds: Sequence[float],
    batch_size: int,
    devices: int,
    peak: float | None,
) -> dict[str, Any]:
    """The row of one variant."""
    median = statistics.median(seconds)
    flops = 2 * step_multiply_adds(program.learner, batch_size)
    rate = flops / median
    return {
        "name": name,
        "parameters": int(count_parameters(program.state.params)),
        "ms_per_step": _ms(median),
        "ms_per_step_min": _ms(min(seconds)),
        "ms_per_step_all": [_ms(value) for value in seconds],
        "images_per_second": round(batch_size / median, 2),
        # One device's program is a share of the step.
        "flops_per_step_xla": program.compiled.cost_analysis()["flops"] * devices,
        "flops_per_step": flops,
        "flops_per_second": rate,
        "share_of_peak": None if peak is None else round(rate / (peak * devices), 4),
        "trace_seconds": round(program.trace_seconds, 2),
        "compile_seconds": round(program.compile_seconds, 2),
        "memory_bytes_per_device": memory_bytes(program.compiled),
        "compilations": program.step._cache_size(),
    }


def add_overheads(rows: list[dict[str, Any]], seconds: dict[str, list[float]]) -> None:
    """Adds to the rows of RePre what they cost over the first row, the baseline."""
    baseline = rows[0]
    for row in rows[1:]:
        pair = (seconds[row["name"]], seconds[baseline["name"]])
        ratios = [own / base for own, base in zip(*pair, strict=True)]
        flops, memory = "flops_per_step", "memory_bytes_per_device"
        row["over_baseline"] = {
            "time": _paired(*pair),
            "time_lowest_and_highest": [round(min(ratios), 4), round(max(ratios), 4)],
            "flops_xla": round(row["flops_per_step_xla"] / baseline["flops_per_step_xla"], 4),
            "flops": round(row[flops] / baseline[flops], 4),
            "memory": round(row[memory]["peak"] / baseline[memory]["peak"], 4),
        }


def table(result: dict[str, Any]) -> str:
    """The result for the screen."""
    device = result["device"]
    lines = [
        f"{device['count']} x {device['kind']}{' (simulated)' * device['simulated']}, batch "
        f"{result['batch_size']}, {result['image_size']} px, {result['compute_dtype']}",
        f"{'variant':<16}{'ms/step':>10}{'min':>10}{'images/s':>10}{'GFLOP XLA':>11}"
        f"{'counted':>9}{'TFLOP/s':>9}{'of peak':>9}{'compile s':>11}{'MiB':>8}{'programs':>9}",
    ]
    for row in result["variants"]:
        share = "unknown" if row["share_of_peak"] is None else f"{row['share_of_peak']:.1%}"
        lines.append(
            f"{row['name']:<16}{row['ms_per_step']:>10.1f}{row['ms_per_step_min']:>10.1f}"
            f"{row['images_per_second']:>10.1f}{row['flops_per_step_xla'] / 1e9:>11.1f}"
            f"{row['flops_per_step'] / 1e9:>9.1f}"
            f"{row['flops_per_second'] / 1e12:>9.3f}{share:>9}{row['compile_seconds']:>11.1f}"
            f"{row['memory_bytes_per_device']['peak'] / 2**20:>8.0f}{row['compilations']:>9}"
        )
    for row in result["variants"][1:]:
        over = row["over_baseline"]
        low, high = over["time_lowest_and_highest"]
        lines.append(
            f"{row['name']} over baseline: time x {over['time']:.3f} ({low:.3f} to {high:.3f}), "
            f"FLOPs x {over['flops_xla']:.3f} (XLA), x {over['flops']:.3f} (counted), "
            f"memory x {over['memory']:.3f}"
        )
    augmentation = result["augmentation"]
    shares = ", ".join(f"{v:.1%} of {name}" for name, v in augmentation["share_of_step"].items())
    return "\n".join([*lines, f"augmentation alone: {augmentation['ms']:.1f} ms; {shares}"])


def result_name(config_filename: str, result: dict[str, Any]) -> str:
    """step_time_<config and variants>_<device>, and the number of devices if more than one."""
    file, _, named = config_filename.partition(":")
    device = in_file_names(result["device"]["kind"])
    count = result["device"]["count"]
    parts = [Path(file).stem, *filter(None, named.split(",")), device]
    return "_".join(["step_time", *parts]) + (f"_x{count}" if count > 1 else "")


def main(argv: list[str]) -> int:
    """Runs what ``argv`` asks for and returns the exit code."""
    options = flags.FLAGS
    try:
        command = command_line.parse(argv)
        if command is None:
            print(__doc__)
            return 0
        config = command.config
        if options.devices:
            jax.config.update("jax_num_cpu_devices", options.devices)
            config.train.devices = options.devices
        # A program found in a cache on disk would take no time to compile.
        jax.config.update("jax_enable_compilation_cache", False)
        mesh = make_mesh(config.train.devices)
        if options.image_size:
            config.model.image_size = options.image_size
        rows = _ROWS_PER_DEVICE[jax.default_backend()] * config.train.accumulate
        config.train.batch_size = options.batch_size or rows * mesh.size
        result = benchmark(
            config, mesh, widths=options.widths, steps=options.steps, rounds=options.rounds
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(result))
    name = result_name(command.config_file, result)
    print(f"Written to {save_result(name, provenance() | result)}")
    return 0


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)


def _paired(seconds: Sequence[float], others: Sequence[float]) -> float:
    """Median over rounds of the ratio of two measurements of the same round."""
    return round(statistics.median(a / b for a, b in zip(seconds, others, strict=True)), 4)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
