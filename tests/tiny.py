"""The smallest learners in which every part of a recipe still acts, and states to try them on.

Compilation is what such tests pay for, so states are made with numpy: nothing is compiled for them,
and unlike a fresh state theirs differs between the online and the target network in every number.
"""

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from repre_jax.config_files import carried, read_config
from repre_jax.image_size import height_and_width
from repre_jax.methods import METHODS
from repre_jax.methods.method import Keys
from repre_jax.runs.checkpoints import Checkpoints
from repre_jax.runs.folder import RunFolder
from repre_jax.training import defaults
from repre_jax.training.learner import Learner, TrainState, build_learner
from repre_jax.training.optimizers import map_with_path
from repre_jax.training.resolution import resolve

CONTRASTIVE = tuple(name for name, module in METHODS.items() if module.VIEWS.global_crops == 2)
MASKED = tuple(name for name in METHODS if name not in CONTRASTIVE)
WIDTH, DEPTH, HEADS = 32, 2, 2
BATCH = 16
STEPS_PER_EPOCH = 4
TOTAL_STEPS = 8


def tiny_config(method: str) -> ConfigDict:
    """The recipe of a method on a tiny encoder and 16-pixel images, without drop path.

    Of ViT-S, where it has one. Images of masked methods have 32 pixels, 16 patches.
    """
    name = f"{method}_vits" if f"{method}_vits" in carried() else f"{method}_vitb"
    config = read_config(f"{name}:smoke")
    config.model.update({"width": WIDTH, "depth": DEPTH, "heads": HEADS})
    config.model.update({"patch_size": 8, "image_size": 16 if method in CONTRASTIVE else 32})
    config.model.drop_path = 0.0
    config.repre.taps = "0,1"
    if method == "dino":
        config.views.local_size = 8
    config.train.update({"batch_size": BATCH, "steps": TOTAL_STEPS})
    return config


def tiny_swin_config(method: str) -> ConfigDict:
    """The same on a tiny Swin: 32 pixels, maps of 8, 4, 2 and 1, windows of 2 that shift once."""
    config = tiny_config(method)
    defaults.usual_size(config)
    config.repre.taps = "multi"
    config.model.update({"name": "swin_nano", "patch_size": 4, "image_size": 32, "window": 2})
    config.model.update({"width": 8, "stage_depths": (2, 1, 1, 1), "stage_heads": (1, 2, 2, 2)})
    config.model.position = None
    if method == "dino":
        config.views.local_size = 16  # a map of 1 before the last merging
    return config


def tiny_conv_config(method: str) -> ConfigDict:
    """The same on a tiny ViT with a convolutional stem of three layers."""
    config = tiny_config(method)
    config.model.name = "vit_conv_nano"
    if "freeze_patch_embedding" in config.method:
        config.method.freeze_patch_embedding = False
    return config


def tiny_learner(config: ConfigDict, *, devices: int = 1) -> Learner:
    """The learner of a config of ``tiny_config``."""
    images = STEPS_PER_EPOCH * BATCH
    return build_learner(config, resolve(config, images=images, devices=devices))


def random_params(module: nn.Module, *inputs: Any, seed: int = 0) -> Any:
    """Parameters of a Flax module, those of a ``random_state``; ``inputs`` are its ``init``'s."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs))["params"]
    return map_with_path(_parameter(np.random.default_rng(seed)), shapes)


def _parameter(rng: np.random.Generator) -> Callable[[str, Any], np.ndarray]:
    def parameter(path, x):
        if np.issubdtype(x.dtype, np.integer):
            return np.zeros(x.shape, x.dtype)
        return (rng.normal(size=x.shape, scale=0.1) + path.endswith("scale")).astype(np.float32)

    return parameter


def random_state(learner: Learner, seed: int = 0) -> TrainState:
    """A state at step 0 with random numbers wherever a fresh one has zeros, ones or copies."""
    rng = np.random.default_rng(seed)
    shapes, parameter = learner.shapes, _parameter(rng)

    def statistic(path, x):
        return rng.uniform(0.5, 1.5, x.shape).astype(np.float32)

    def zero(x):
        return np.zeros(x.shape, x.dtype)

    return jax.tree.map(zero, shapes).replace(
        params=map_with_path(parameter, shapes.params),
        target_params=map_with_path(parameter, shapes.target_params),
        batch_stats=map_with_path(statistic, shapes.batch_stats),
        target_batch_stats=map_with_path(statistic, shapes.target_batch_stats),
        memory=map_with_path(parameter, shapes.memory),
    )


class SavedRun(NamedTuple):
    """A run folder as pre-training leaves it, without the training."""

    folder: Path
    learner: Learner
    states: dict[int, TrainState]


def saved_run(folder: Path, method: str, *, steps: tuple[int, ...] = (1,), **model) -> SavedRun:
    """Makes a run on digits with ``random_state`` in its checkpoints of these steps.

    ``model`` replaces keys of the config's model: a vit_nano on images of 16 pixels.
    """
    config, learner, states = _run(method, steps, tuple(model.items()))
    config = config.copy_and_resolve_references()
    config.workdir = str(folder)
    states = jax.tree.map(np.array, states)  # a copy, which tests may change
    with contextlib.closing(RunFolder(folder, config.to_dict())) as opened:
        opened.write_config()
        checkpoints = Checkpoints(opened.checkpoints, keep=len(steps), best_metric=None)
        for state in states.values():
            checkpoints.save(state)
        checkpoints.close()
    return SavedRun(folder, learner, states)


@functools.cache
def _run(
    method: str, steps: tuple[int, ...], model: tuple[tuple[str, Any], ...]
) -> tuple[ConfigDict, Learner, dict[int, TrainState]]:
    """What a run is, apart from its folder."""
    config = tiny_config(method)
    defaults.usual_size(config)
    config.repre.taps = "multi"
    config.model.update({"name": "vit_nano"} | dict(model))
    # Without colour: what never happens is not compiled.
    config.views.update({"jitter_probability": 0.0, "grey_probability": 0.0})
    never = (0.0,) * METHODS[method].VIEWS.global_crops
    config.views.update({"blur_probability": never, "solarise_probability": never})
    learner = build_learner(config, resolve(config, images=STEPS_PER_EPOCH * BATCH, devices=1))
    states = {step: random_state(learner, seed=step) for step in steps}
    return config, learner, {t: x.replace(step=np.int32(t)) for t, x in states.items()}


def random_pixels(learner: Learner, seed: int = 1) -> dict[str, np.ndarray]:
    """uint8 views of one batch: "global" [B, 2, S, S, 3] and, for multi-crop, "local"."""
    rng = np.random.default_rng(seed)
    recipe, encoder = learner.method.views, learner.encoder
    size = height_and_width(encoder.image_size)
    shapes = {"global": (BATCH, recipe.global_crops, *size, encoder.channels)}
    if recipe.local_crops:
        side = recipe.local_size
        shapes["local"] = (BATCH, recipe.local_crops, side, side, encoder.channels)
    return {name: rng.integers(0, 256, shape, np.uint8) for name, shape in shapes.items()}


def random_views(learner: Learner, seed: int = 1) -> dict[str, np.ndarray]:
    """The same as augmented views: float32 in [0, 1], and "index" [B]."""
    pixels = random_pixels(learner, seed)
    views = {name: x.astype(np.float32) / 255 for name, x in pixels.items()}
    return views | {"index": np.arange(BATCH, dtype=np.int32)}


def random_keys(learner: Learner) -> Keys:
    """Keys of a batch."""
    rows = {"epoch": np.zeros(BATCH, np.int32), "index": np.arange(BATCH, dtype=np.int32)}
    return learner.keys(rows, jnp.int32(0))


def paths(tree: Any) -> list[str]:
    """Path of every leaf, in the tree's order."""
    return jax.tree.leaves(map_with_path(lambda path, _: path, tree))


def equations(jaxpr: Any):
    """Every equation of a jaxpr, those of inner jaxprs included."""
    for equation in jaxpr.eqns:
        yield equation
        for parameter in jax.tree.leaves(
            equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from equations(inner)
