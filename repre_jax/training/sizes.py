"""Sizes that a config leaves open, chosen by rule from the number of images and the devices.

``configs/my_images.py`` leaves them open: each is None there. What the user sets stays.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from repre_jax.methods import METHODS
from repre_jax.training.resolution import Resolution, compute_dtype, resolve

# The two recipes of configs/imagenette_dino.py: minutes on a CPU, and an accelerator.
_CPU = {
    "model.name": "vit_nano",
    "model.image_size": 64,
    "model.initialisation": "moco_v3",
    "views.crop_scale": (0.25, 1.0),
    "views.local_crops": 2,
    "views.local_size": 32,
    "views.local_crop_scale": (0.08, 0.3),
    "method.hidden": 512,
    "method.bottleneck": 128,
    "optimizer.learning_rate": 2e-3,
    "optimizer.end_learning_rate": 1e-5,
    "optimizer.end_weight_decay": 0.04,
}
_ACCELERATOR = {
    "model.name": "vit_small",
    "model.image_size": 160,
    "model.initialisation": "dino",
    "views.crop_scale": (0.4, 1.0),
    "views.local_crops": 8,
    "views.local_size": 64,
    "views.local_crop_scale": (0.05, 0.4),
    "method.hidden": 2048,
    "method.bottleneck": 256,
    "optimizer.learning_rate": 5e-4,
    "optimizer.end_learning_rate": 1e-6,
    "optimizer.end_weight_decay": 0.4,
}
_MANY_IMAGES = 500_000  # from here on the paper's recipe, made for 1.3 million, is at home
# Images; 19 minutes in benchmarks/results/imagenette_cpu/dino-learned.json.
_SEEN_ON_CPU = 240_000
_SEEN_ON_ACCELERATOR = 2_000_000


class Choice(NamedTuple):
    """A value and the rule that it comes from."""

    key: str
    value: Any
    why: str


def choose_sizes(
    config: ConfigDict,
    *,
    images: int,
    devices: int,
    on_cpu: bool,
    before: Mapping[str, Any] | None = None,
) -> list[Choice]:
    """Fills in what ``config`` leaves open, and says by which rule.

    Args:
      config: of a pre-training; changed in place.
      images: in the training set.
      devices: that share a step.
      on_cpu: whether they are a CPU's.
      before: the config of the run that goes on, whose sizes it keeps on whatever devices.

    Returns:
      What was chosen; empty for a config that leaves nothing open.
    """
    rules = _rules(config, images, devices, on_cpu)
    if not any(_open(config, rule.key) for rule in rules if not rule.key.startswith("views.")):
        return []  # views that are None are the paper's
    choices = []
    for choice in rules:
        section, name = choice.key.split(".")
        if _open(config, choice.key):
            if before is not None:
                began = before.get(section, {}).get(name, choice.value)
                choice = Choice(choice.key, began, "as the run began")
            config[section][name] = choice.value
            choices.append(choice)
    return choices


def choose_compute_dtype(
    config: ConfigDict, *, on_cpu: bool, before: Mapping[str, Any] | None = None
) -> list[Choice]:
    """Puts a type in place of train.compute_dtype=auto, so that it is saved with the run.

    Args and what is returned: as of ``choose_sizes``.
    """
    if config.train.compute_dtype != "auto":
        return []
    chosen, why = compute_dtype("auto", on_cpu).name, "on a CPU" if on_cpu else "on accelerators"
    if before is not None and "compute_dtype" in before.get("train", {}):
        chosen, why = before["train"]["compute_dtype"], "as the run began"
    config.train.compute_dtype = chosen
    return [Choice("train.compute_dtype", chosen, why)]


def settle(
    config: ConfigDict,
    *,
    images: int,
    devices: int,
    on_cpu: bool,
    before: Mapping[str, Any] | None,
) -> tuple[Resolution, list[Choice]]:
    """Fills in all that ``config`` leaves open, and derives the numbers of the run from it.

    Args and errors: as of ``choose_sizes`` and ``resolve``.

    Returns:
      (numbers of the run, what was chosen).
    """
    sizes = {"images": images, "devices": devices, "on_cpu": on_cpu}
    choices = choose_sizes(config, **sizes, before=before)
    choices += choose_compute_dtype(config, on_cpu=on_cpu, before=before)
    return resolve(config, **sizes), choices


def _open(config: ConfigDict, key: str) -> bool:
    section, name = key.split(".")
    if name not in config[section] or config[section][name] is not None:
        return False
    # To some methods None is a value: the width of SimCLR's head is then the encoder's.
    usual = METHODS[config.method.name].default_config()
    return section != "method" or usual[name] is not None


def _rules(config: ConfigDict, images: int, devices: int, on_cpu: bool) -> list[Choice]:
    """All of them, of which those of sizes that the user set are of no use."""
    most = 64 if on_cpu else min(64 * devices, 1024)
    share = devices * config.train.accumulate
    batch = max(share, min(most, max(8, _power_of_two(images / 16))) // share * share)
    limit = "64" if on_cpu else "64 a device, 1,024 in all"
    rules = [Choice("train.batch_size", batch, f"at most {limit}; 16 steps an epoch or more")]
    batch = config.train.batch_size or batch

    if on_cpu:
        epochs, seen = max(1, round(_SEEN_ON_CPU / images)), f"{_SEEN_ON_CPU:,} images"
    else:
        usual = 100 if images >= _MANY_IMAGES else 200
        epochs = max(usual, min(800, round(_SEEN_ON_ACCELERATOR / images)))
        seen = f"{_SEEN_ON_ACCELERATOR:,} images, {usual} to 800 epochs"
    rules.append(Choice("train.epochs", epochs, f"about {seen}"))
    steps_per_epoch = max(1, images // batch)
    steps = config.train.steps or steps_per_epoch * (config.train.epochs or epochs)
    epochs = steps / steps_per_epoch

    warmup = min(10.0, round(epochs / 25, 2))
    rules.append(Choice("optimizer.warmup_epochs", warmup, "a 25th of the run, at most 10 epochs"))
    most = 1024 if on_cpu else 65_536
    prototypes = min(most, max(256, _power_of_two(4 * images)))
    rules.append(Choice("method.prototypes", prototypes, f"up to 4 an image, at most {most:,}"))
    rules.append(_momentum(batch, steps))
    kind = "a CPU" if on_cpu else "accelerators"
    budget = (_CPU if on_cpu else _ACCELERATOR) | _temperatures(images, on_cpu, epochs)
    return rules + [Choice(key, x, f"the recipe for {kind}") for key, x in budget.items()]


def _momentum(batch: int, steps: int) -> Choice:
    """The moving average keeps its length in images when the batch changes.

    Source: Busbridge et al. 2023 (arXiv 2307.13813); DINO's 0.996 is of 1,024 images a step. A
    short run has no time for a long one: a 37th of it is what configs/imagenette_dino.py has.
    """
    length = max(2.0, min(1024 / batch / (1 - 0.996), steps / 37))
    momentum = round(1 - float(f"{1 / length:.2g}"), 7)
    why = "0.996 at 1,024 images a step, scaled to the batch; at most a 37th of the run"
    return Choice("method.momentum", momentum, why)


def _temperatures(images: int, on_cpu: bool, epochs: float) -> dict[str, float]:
    """Of the teacher: sharp at first on a short run, the paper's where there are many images."""
    start, end, over = 0.04, 0.04, 0
    if on_cpu:
        start, over = 0.02, round(0.8 * epochs)
    elif images >= _MANY_IMAGES:
        end, over = 0.07, min(30, round(epochs))
    return {
        "method.teacher_temperature_start": start,
        "method.teacher_temperature": end,
        "method.teacher_temperature_warmup_epochs": over,
    }


def _power_of_two(number: float) -> int:
    """The largest one that is not above ``number``, at least 1."""
    return 2 ** math.floor(math.log2(max(number, 1)))
