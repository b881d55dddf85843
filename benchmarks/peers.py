"""Our train step and input beside the official PyTorch ones, by turns in one run.

    python -m benchmarks.peers --dino=CHECKOUT --moco_v3=CHECKOUT --data=/data/imagenette160
    python -m benchmarks.peers --methods=moco_v3 --moco_v3=CHECKOUT --data=... --batch_size=8

ViT-S/16 as published, without RePre and with it; theirs by ``official_contrastive.py``. On a CPU in
float32, on a GPU in bfloat16, where theirs is measured compiled by ``torch.compile``, too. A
measurement is so many steps on a batch that stays on the device. Of the augmentation ours does the
photometric part in the step and crops on the host, theirs all of it on the host: therefore the
input is measured, too, each side's own loader on all cores, and an iteration is both: their sum on
a CPU, whose cores they share, and the longer of the two beside an accelerator, where they overlap.
Writes ``results/peers_<device>.json`` after every method; stopped, the same command goes on.
"""

import functools
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

from benchmarks import official, official_contrastive, step_time
from benchmarks.masked_step import ratios, spread
from benchmarks.options import start
from benchmarks.programs import TRAINING_IMAGES
from benchmarks.provenance import RESULTS, finished_rows, in_file_names, provenance, save_result
from repre_jax.config_files import read_config
from repre_jax.data.pipeline import training_batches
from repre_jax.data.sources import open_source
from repre_jax.errors import UserError
from repre_jax.sharding import make_mesh
from repre_jax.training.learner import build_learner
from repre_jax.training.resolution import resolve

CONFIGS = {"dino": "dino_vits", "moco_v3": "moco_v3_vits"}
GOAL = 1.2  # times the official code's images a second, of float32 steps on a CPU
OURS, OFFICIAL = ("baseline", "repre"), ("official", "official_compiled")

OPTIONS = flags.FlagValues()
_CHECKOUTS = {
    method: flags.DEFINE_string(method, None, f"checkout of {repository}", flag_values=OPTIONS)
    for method, repository in official_contrastive.REPOSITORIES.items()
}
_DATA = flags.DEFINE_string(
    "data", None, "folder of images with train/<class>/", required=True, flag_values=OPTIONS
)
_METHODS = flags.DEFINE_list("methods", list(CONFIGS), "of dino, moco_v3", flag_values=OPTIONS)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", None, "images a step; default: 4 on a CPU, else 128", flag_values=OPTIONS
)
_STEPS = flags.DEFINE_integer(
    "steps", None, "steps of a measurement; default: 1 on a CPU, else 10", flag_values=OPTIONS
)
_ROUNDS = flags.DEFINE_integer(
    "rounds", 5, "measurements of each", lower_bound=1, flag_values=OPTIONS
)
_INPUT_IMAGES = flags.DEFINE_integer(
    "input_images", 512, "that a measurement of the input takes", flag_values=OPTIONS
)


def benchmark(
    method: str, checkout: str, data: str, *, batch_size: int, steps: int, rounds: int, images: int
) -> dict[str, Any]:
    """Measures steps and input of one method, by turns.

    Args:
      method: of ``CONFIGS``.
      checkout: folder of the official code.
      data: folder of class folders.
      batch_size: images a step.
      steps: of one measurement.
      rounds: measurements of each.
      images: that a measurement of the input takes, at least.

    Returns:
      The row of the method; see ``report``.
    """
    programs, batch = our_programs(method, batch_size)
    measures: dict[str, Callable[[], float]] = {
        name: functools.partial(program.run, batch, steps) for name, program in programs.items()
    }
    on_cpu = jax.default_backend() == "cpu"
    for name, compiled in zip(OFFICIAL, (False,) if on_cpu else (False, True), strict=False):
        step = official_contrastive.make_step(
            method, checkout, batch_size=batch_size, compiled=compiled
        )
        measures[name] = functools.partial(step, steps)
    seconds = step_time.take_turns(measures, rounds)
    batches = -(-images // batch_size)
    learner = programs["baseline"].learner
    theirs = functools.partial(
        official_contrastive.input_rate,
        method,
        checkout,
        data,
        batch_size,
        batches,
    )
    ours = functools.partial(
        our_input_rate, learner.method.views, learner.encoder, data, batch_size, batches
    )
    rates = step_time.take_turns({"ours": ours, "official": theirs}, rounds)
    return report(seconds, rates, batch_size=batch_size, cores_are_shared=on_cpu)


def our_programs(method: str, batch_size: int) -> tuple[dict[str, step_time.Program], Any]:
    """{"baseline", "repre"} compiled on one device and taken once, and a batch for them."""
    mesh, programs, batch = make_mesh(1), {}, None
    for name in OURS:
        config: ConfigDict = read_config(CONFIGS[method])
        config.repre.enabled = name == "repre"
        config.train.batch_size = batch_size
        learner = build_learner(config, resolve(config, images=TRAINING_IMAGES, devices=1))
        batch = batch or step_time.synthetic_batch(learner, batch_size, mesh)
        programs[name] = step_time.make_program(learner, batch, mesh)
    return programs, batch


def our_input_rate(recipe: Any, encoder: Any, data: str, batch_size: int, batches: int) -> float:
    """Images a second of the training pipeline, on all cores, after one batch."""
    source = open_source(ConfigDict({"source": "folder", "path": data}), "train")
    with training_batches(
        source,
        recipe,
        image_size=encoder.image_size,
        batch_size=batch_size,
        seed=0,
        start_step=0,
        total_steps=batches + 1,
        workers=0,
    ) as stream:
        next(stream)
        start = time.perf_counter()
        for _ in stream:
            pass
        return batches * batch_size / (time.perf_counter() - start)


def report(
    seconds: Mapping[str, Sequence[float]],
    rates: Mapping[str, Sequence[float]],
    *,
    batch_size: int,
    cores_are_shared: bool,
) -> dict[str, Any]:
    """The row of a method.

    Args:
      seconds: of a step, round by round, of "baseline", "repre", "official" and perhaps
        "official_compiled".
      rates: images a second of the inputs "ours" and "official", round by round.
      batch_size: images a step.
      cores_are_shared: by step and input, so that their times add up.

    Returns:
      {"input", "steps": name -> images a second of step and iteration, and for ours how many times
      the official one (or the faster of the two) it is, step and iteration}.
    """
    join = sum if cores_are_shared else max
    iterations = {}
    for name, steps in seconds.items():
        side = "ours" if name in OURS else "official"
        input_seconds = batch_size / statistics.median(rates[side])
        iterations[name] = [join((step, input_seconds)) for step in steps]
    rows = {
        name: {
            "seconds_per_step": [round(value, 5) for value in steps],
            "step": spread([batch_size / value for value in steps]),
            "iteration": spread([batch_size / value for value in iterations[name]]),
        }
        for name, steps in seconds.items()
    }
    theirs = [name for name in OFFICIAL if name in seconds]
    fastest = min(theirs, key=lambda name: statistics.median(seconds[name]))
    for name in (name for name in OURS if name in seconds):
        rows[name]["times_official"] = {
            "official": fastest,
            "step": spread(ratios(seconds[fastest], seconds[name])),
            "iteration": spread(ratios(iterations[fastest], iterations[name])),
        }
    return {"input": {side: spread(values) for side, values in rates.items()}, "steps": rows}


def table(method: str, row: dict[str, Any]) -> str:
    """The row of a method for the screen."""
    ours, theirs = (row["input"][side]["median"] for side in ("ours", "official"))
    lines = [f"{method}: input {ours:,.0f} images/s, official {theirs:,.0f}"]
    for name, measured in row["steps"].items():
        line = (
            f"  {name:<18}step {_shown(measured['step'])} images/s, "
            f"with input {_shown(measured['iteration'])}"
        )
        if "times_official" in measured:
            times = measured["times_official"]
            line += (
                f"; {_shown(times['step'])} times {times['official']}, with input "
                f"{_shown(times['iteration'])}"
            )
        lines.append(line)
    return "\n".join(lines)


def _shown(values: dict[str, float]) -> str:
    return f"{values['median']:.2f} ({values['lowest']:.2f} to {values['highest']:.2f})"


def main(argv: list[str]) -> None:
    del argv
    # JAX would take three quarters of a GPU, which PyTorch shares here.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if not set(_METHODS.value) <= set(CONFIGS):
        raise UserError(f"--methods takes {', '.join(CONFIGS)}.")
    checkouts = {method: _CHECKOUTS[method].value for method in _METHODS.value}
    official_contrastive.check(checkouts, "name the others in --methods")
    on_cpu = jax.default_backend() == "cpu"
    device = in_file_names(jax.devices()[0].device_kind)
    result = provenance() | {
        "official": official.provenance(checkouts, official_contrastive.PACKAGES),
        "batch_size": _BATCH_SIZE.value or (4 if on_cpu else 128),
        "compute_dtype": "float32" if on_cpu else "bfloat16",
        "steps_per_measurement": _STEPS.value or (1 if on_cpu else 10),
        "measurements": _ROUNDS.value,
    }
    rows = result["rows"] = finished_rows(RESULTS / f"peers_{device}.json", result, _METHODS.value)
    for method in _METHODS.value:
        if method not in rows:
            rows[method] = benchmark(
                method,
                checkouts[method],
                _DATA.value,
                batch_size=result["batch_size"],
                steps=result["steps_per_measurement"],
                rounds=_ROUNDS.value,
                images=_INPUT_IMAGES.value,
            )
        path = save_result(f"peers_{device}", result)
        print(table(method, rows[method]), flush=True)
    print(f"Written to {path}; on a CPU the goal is {GOAL} times the official step")


if __name__ == "__main__":
    start(main, OPTIONS)
