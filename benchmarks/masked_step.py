"""How fast MAE and LoMaR train, here and in their authors' code: images a second of a whole step.

    python -m benchmarks.masked_step --mae=CHECKOUT --lomar=CHECKOUT
    python -m benchmarks.masked_step --ours_only --sizes=224

ViT-B/16 in float32 at several image sizes: forward, backward and AdamW on one synthetic batch that
stays in memory. Ours is the step of configs/mae_vitb.py and lomar_vitb.py, from uint8 pixels, flip
included; theirs is that of ``official_masked.py``, on a CPU. All steps of a size take turns, so
that the state of the machine hits them alike. So do, as a calibration, the matrix products of an
MLP layer in both frameworks: they tell what of a difference is the library's. Writes
``results/masked_step_<device>.json`` after every size; stopped, the same command goes on.
"""

import functools
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from absl import flags
from ml_collections import ConfigDict

from benchmarks import official, official_masked, step_time
from benchmarks.options import start
from benchmarks.programs import TRAINING_IMAGES
from benchmarks.provenance import RESULTS, finished_rows, in_file_names, provenance, save_result
from repre_jax.config_files import read_config
from repre_jax.data.host.cores import usable_cores
from repre_jax.errors import UserError
from repre_jax.models import VIT_SIZES
from repre_jax.models.masking import kept_of
from repre_jax.sharding import make_mesh
from repre_jax.training.learner import build_learner
from repre_jax.training.operations import step_multiply_adds
from repre_jax.training.resolution import resolve

METHODS, CODES = ("mae", "lomar"), ("ours", "official")
GOALS = {"mae": 1.2, "lomar": 1.5}  # times the official code's images a second
GOALS_OVER_MAE = {448: 3.1}  # image size -> images a second of LoMaR over MAE's
# What changes the speed of either framework from outside.
VARIABLES = ("GLIBC_TUNABLES", "LD_PRELOAD", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "XLA_FLAGS")
PRODUCTS = 5  # times that the products are computed in a measurement
# Of a linear layer: its outputs, the gradients of its inputs and of its kernel.
LAYER_PRODUCTS = (
    jax.jit(lambda inputs, kernel, gradient: inputs @ kernel),
    jax.jit(lambda inputs, kernel, gradient: gradient @ kernel.T),
    jax.jit(lambda inputs, kernel, gradient: inputs.T @ gradient),
)

OPTIONS = flags.FlagValues()
_CHECKOUTS = {
    method: flags.DEFINE_string(method, None, f"checkout of {repository}", flag_values=OPTIONS)
    for method, repository in official_masked.REPOSITORIES.items()
}
_OURS_ONLY = flags.DEFINE_bool(
    "ours_only", False, "leave the official code out, and PyTorch with it", flag_values=OPTIONS
)
_METHODS = flags.DEFINE_list("methods", list(METHODS), "of mae, lomar", flag_values=OPTIONS)
_SIZES = flags.DEFINE_list(
    "sizes", ["224", "384", "448"], "sides of the images in pixels", flag_values=OPTIONS
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 4, "images a step", lower_bound=2, flag_values=OPTIONS
)
_STEPS = flags.DEFINE_integer(
    "steps", 1, "steps of a measurement", lower_bound=1, flag_values=OPTIONS
)
_ROUNDS = flags.DEFINE_integer(
    "rounds", 5, "measurements of each step", lower_bound=1, flag_values=OPTIONS
)
_THREADS = flags.DEFINE_integer(
    "threads",
    None,
    "cores for either framework; by default all",
    lower_bound=1,
    flag_values=OPTIONS,
)


class Counts(NamedTuple):
    """Multiply-adds of a train step on a batch, and of the products that calibrate it."""

    step: int
    products: int


def benchmark(
    configs: Mapping[str, ConfigDict], checkouts: Mapping[str, str], *, steps: int, rounds: int
) -> dict[str, Any]:
    """Measures the steps of all methods at one image size, by turns.

    Args:
      configs: method -> config of a pre-training run, of one image size and one batch size.
      checkouts: method -> folder of the official code; {} leaves that out.
      steps: of one measurement.
      rounds: measurements of each step.

    Returns:
      The row of the size; README.md explains the fields.
    """
    measures, counts = {}, {}
    for method, config in configs.items():
        images, size, layer = config.train.batch_size, config.model.image_size, mlp_layer(config)
        program, batch = make_program(config)
        counts[method] = Counts(
            step_multiply_adds(program.learner, images), len(LAYER_PRODUCTS) * math.prod(layer)
        )
        made = {"ours": (functools.partial(program.run, batch), make_products(*layer))}
        if method in checkouts:
            made["official"] = (
                official_masked.make_step(
                    method, checkouts[method], image_size=size, batch_size=images
                ),
                official_masked.make_products(*layer),
            )
        for code, (step, products) in made.items():
            measures[f"{method}/{code}/step"] = functools.partial(step, steps)
            measures[f"{method}/{code}/products"] = functools.partial(products, PRODUCTS)
    return report(step_time.take_turns(measures, rounds), counts, images=images, image_size=size)


def make_program(config: ConfigDict) -> tuple[step_time.Program, dict[str, jax.Array]]:
    """The config's compiled train step on one device, taken once, and a batch for it."""
    mesh = make_mesh(1)
    learner = build_learner(config, resolve(config, images=TRAINING_IMAGES, devices=1))
    batch = step_time.synthetic_batch(learner, config.train.batch_size, mesh)
    return step_time.make_program(learner, batch, mesh), batch


def mlp_layer(config: ConfigDict) -> tuple[int, int, int]:
    """(rows, width, hidden) of the MLP's first layer: of all tokens that the encoder sees."""
    method, patches = config.method, (config.model.image_size // config.model.patch_size) ** 2
    if method.name == "lomar":
        tokens = method.windows * (1 + method.side**2)
    else:
        tokens = 1 + kept_of(patches, method.mask_ratio)
    width = VIT_SIZES[config.model.name][0]
    return config.train.batch_size * tokens, width, 4 * width


def make_products(rows: int, width: int, hidden: int) -> Callable[[int], float]:
    """As ``official_masked.make_products``, by JAX."""
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = (rows, width), (width, hidden), (rows, hidden)
    arrays = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]

    def run(times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            for product in LAYER_PRODUCTS:
                jax.block_until_ready(product(*arrays))
        return (time.perf_counter() - start) / times

    run(1)
    return run


def report(
    seconds: Mapping[str, Sequence[float]],
    counts: Mapping[str, Counts],
    *,
    images: int,
    image_size: int,
) -> dict[str, Any]:
    """The row of an image size.

    Args:
      seconds: "<method>/<ours or official>/<step or products>" -> of one of them, round by round.
      counts: of each method.
      images: of a step.
      image_size: in pixels.
    """
    codes = [code for code in CODES if any(f"/{code}/" in name for name in seconds)]
    methods = {}
    for method, count in counts.items():
        steps = {code: seconds[f"{method}/{code}/step"] for code in codes}
        row = methods[method] = {"multiply_adds_per_image": count.step // images}
        for code in codes:
            row[code] = describe(steps[code], seconds[f"{method}/{code}/products"], count, images)
        if "official" in codes:
            row["times_official"] = spread(ratios(steps["official"], steps["ours"]))
            row["times_official"]["goal"] = GOALS[method]
    result = {"methods": methods}
    if set(METHODS) <= set(counts):
        over = result["lomar_over_mae"] = {
            code: spread(ratios(*(seconds[f"{method}/{code}/step"] for method in METHODS)))
            for code in codes
        }
        over["arithmetic"] = round(counts["mae"].step / counts["lomar"].step, 4)
        over["goal"] = GOALS_OVER_MAE.get(image_size)
    return result


def describe(
    seconds: Sequence[float], products: Sequence[float], count: Counts, images: int
) -> dict[str, Any]:
    """What one code reached, from the seconds of its steps and of the products."""
    as_fast_as_products = [value * count.step / count.products for value in products]
    return {
        "images_per_second": spread([images / value for value in seconds]),
        "seconds_per_step": [round(value, 5) for value in seconds],
        "gflop_per_second": round(2e-9 * count.step / statistics.median(seconds), 2),
        "products_gflop_per_second": round(2e-9 * count.products / statistics.median(products), 2),
        "products_share_of_step": spread(ratios(as_fast_as_products, seconds))["median"],
    }


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(numerators, denominators, strict=True)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    found = {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
    return {name: round(value, 4) for name, value in found.items()}


def table(image_size: str, row: dict[str, Any]) -> str:
    """The row of an image size for the screen."""
    lines = []
    for method, measured in row["methods"].items():
        work = measured["multiply_adds_per_image"] / 1e9
        for code in filter(measured.__contains__, CODES):
            of = measured[code]
            lines.append(
                f"{image_size:>4} px {method:<6}{code:<9}{_shown(of['images_per_second'])} images/s"
                f" of {work:.1f} GMAC: {of['gflop_per_second']:.1f} GFLOP/s, "
                f"{of['products_gflop_per_second']:.1f} in products alone, which would take "
                f"{of['products_share_of_step']:.0%} of the step"
            )
        if "times_official" in measured:
            times = measured["times_official"]
            lines.append(f"    {_shown(times)} times the official code; goal {times['goal']}")
    if "lomar_over_mae" in row:
        over = row["lomar_over_mae"]
        found = [f"{code} {_shown(over[code])}" for code in CODES if code in over]
        goal = f"; goal {over['goal']}" if over["goal"] else ""
        lines.append(
            f"    LoMaR over MAE: {', '.join(found)}, arithmetic {over['arithmetic']:.2f}{goal}"
        )
    return "\n".join(lines)


def _shown(values: dict[str, float]) -> str:
    return f"{values['median']:.2f} ({values['lowest']:.2f} to {values['highest']:.2f})"


def limit_cores(count: int) -> None:
    """Keeps this process, and so JAX's threads and torch's, to so many of its cores.

    Raises:
      UserError: fewer cores, or a system that cannot be asked.
    """
    if count > usable_cores() or not hasattr(os, "sched_setaffinity"):
        raise UserError(f"--threads={count} is not possible: {usable_cores()} cores are usable.")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def read_configs(image_size: int) -> dict[str, ConfigDict]:
    """method -> its config of ViT-B/16, as it is to be measured."""
    configs = {}
    for method in _METHODS.value:
        config = configs[method] = read_config(f"{method}_vitb")
        config.model.image_size = image_size
        config.train.update({"batch_size": _BATCH_SIZE.value, "compute_dtype": "float32"})
    return configs


def main(argv: list[str]) -> None:
    del argv
    if not set(_METHODS.value) <= set(METHODS):
        raise UserError(f"--methods takes {', '.join(METHODS)}.")
    if not all(size.isdigit() for size in _SIZES.value):
        raise UserError(f"--sizes={','.join(_SIZES.value)} must be numbers of pixels.")
    if _THREADS.value:
        limit_cores(_THREADS.value)
    checkouts = {}
    if not _OURS_ONLY.value:
        if jax.default_backend() != "cpu":
            raise UserError("The official code runs on a CPU: set JAX_PLATFORMS=cpu.")
        checkouts = {method: _CHECKOUTS[method].value for method in _METHODS.value}
        official_masked.check(checkouts)
    device = in_file_names(jax.devices()[0].device_kind)
    name = f"masked_step_{device}"
    result = provenance() | {
        "official": official.provenance(checkouts, official_masked.PACKAGES),
        "environment": {name: os.environ.get(name) for name in VARIABLES},
        "batch_size": _BATCH_SIZE.value,
        "compute_dtype": "float32",
        "steps_per_measurement": _STEPS.value,
        "measurements": _ROUNDS.value,
    }
    rows = result["rows"] = finished_rows(RESULTS / f"{name}.json", result, _SIZES.value)
    for size in _SIZES.value:
        if size not in rows:
            rows[size] = benchmark(
                read_configs(int(size)), checkouts, steps=_STEPS.value, rounds=_ROUNDS.value
            )
        path = save_result(name, result)
        print(table(size, rows[size]), flush=True)
    print(f"Written to {path}")


if __name__ == "__main__":
    start(main, OPTIONS)
