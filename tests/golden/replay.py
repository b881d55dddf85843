"""Runs the recorded cases through the real train step, from a config as users write it."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden.cases import BATCH, STEPS, TRAINED_VIT
from golden.compare import assert_same_shapes
from golden.linear_encoder import LinearEncoder
from golden.masked_cases import MaskedRun
from golden.weights import ViTShape
from ml_collections import ConfigDict

from repre_jax.methods import METHODS
from repre_jax.methods.method import Keys
from repre_jax.models import BACKBONES
from repre_jax.training import defaults
from repre_jax.training.learner import Learner, TrainState, build_learner, target_part
from repre_jax.training.optimizers import map_with_path
from repre_jax.training.resolution import resolve
from repre_jax.training.step import loss_and_gradients, train_step


def base_config(
    method: str,
    *,
    steps_per_epoch: int,
    epochs: int,
    vit: ViTShape = TRAINED_VIT,
    batch: int = BATCH,
) -> tuple[ConfigDict, int]:
    """(a baseline config of a tiny encoder without augmentation, images of its training set)."""
    config = defaults.get_config(method)
    config.repre.enabled = False
    config.model.update({"width": vit.width, "depth": vit.depth, "heads": vit.heads})
    config.model.update({"patch_size": vit.patch_size, "image_size": vit.image_size})
    never = (0.0,) * METHODS[method].VIEWS.global_crops
    config.views.update(
        {
            "flip_probability": 0.0,
            "jitter_probability": 0.0,
            "grey_probability": 0.0,
            "blur_probability": never,
            "solarise_probability": never,
            "local_blur_probability": 0.0,
        }
    )
    config.train.update({"batch_size": batch, "epochs": epochs, "compute_dtype": "float32"})
    return config, steps_per_epoch * batch


def set_adamw(config: ConfigDict, run: MaskedRun) -> None:
    """The optimizer of MAE and LoMaR."""
    beta_1, beta_2 = run.betas
    config.optimizer.update(
        {
            "name": "adamw",
            "learning_rate": run.peak * 256 / run.batch,
            "end_learning_rate": run.end,
            "schedule": "moco_v3",
            "warmup_epochs": float(run.warmup_epochs),
            "weight_decay": run.decay,
            "end_weight_decay": run.decay,
            "beta_1": beta_1,
            "beta_2": beta_2,
        }
    )


def learner_of(config: ConfigDict, images: int, monkeypatch: pytest.MonkeyPatch) -> Learner:
    """The learner of a config that may name an encoder of the recordings."""
    monkeypatch.setitem(
        BACKBONES, "golden_linear", lambda model, dtype: LinearEncoder(model.image_size)
    )
    return build_learner(config, resolve(config, images=images, devices=1))


def replay(
    config: ConfigDict,
    images: int,
    params: Any,
    views_of_step,
    monkeypatch: pytest.MonkeyPatch,
    memory: Any = None,
    silent: tuple[str, ...] = (),
) -> list[tuple[TrainState, dict[str, np.ndarray]]]:
    """[(state before the first step, {}), then (state, metrics) after each step].

    ``memory`` stands in for the initial one, whose shapes it must have. Gradients of parameters
    whose names end as those of ``silent`` are zero for the optimizer, as they were when recorded.
    """
    learner = learner_of(config, images, monkeypatch)
    learner = dataclasses.replace(learner, optimizer=silenced(learner.optimizer, silent))
    state = state_at_0(learner, params)
    if memory is not None:
        assert_same_shapes(memory, state.memory)
        state = state.replace(memory=jax.tree.map(jnp.array, memory))
    step = jax.jit(functools.partial(train_step, learner))
    history = [(state, {})]
    for t in range(STEPS):
        views, rows = views_of_step(t), config.train.batch_size
        batch = views | {
            "index": np.arange(rows, dtype=np.int32),
            "epoch": np.full(rows, t * rows // images, np.int32),
        }
        state, metrics = step(state, batch)
        history.append((state, jax.tree.map(np.asarray, metrics)))
    return history


def state_at_0(learner: Learner, params: Any) -> TrainState:
    """The initial state with these online parameters, and the target's a copy of them."""
    state = jax.jit(learner.init)()
    assert_same_shapes(params, state.params)
    # numpy arrays may be views of the recorded weights: the device gets its own.
    params = jax.tree.map(jnp.array, params)
    return state.replace(
        params=params, target_params=jax.tree.map(jnp.array, target_part(learner.method, params))
    )


def first_gradients(
    config: ConfigDict, images: int, params: Any, views_of_step, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Gradients of the first step of ``replay``, before the optimizer does anything to them."""
    learner = learner_of(config, images, monkeypatch)
    state = state_at_0(learner, params)
    rows = np.arange(config.train.batch_size, dtype=np.int32)
    views = {name: np.float32(x) / 255 for name, x in views_of_step(0).items()} | {"index": rows}
    keys = learner.keys({"index": rows, "epoch": np.zeros_like(rows)}, state.step)
    return jax.jit(functools.partial(loss_and_gradients, learner))(state, views, keys)[0]


def keys_of_step(learner: Learner, batch: Any, step: Any) -> Keys:
    """In place of ``Learner.keys``: the step itself, by which recorded draws are looked up."""
    del batch
    return Keys(step, jax.random.key(learner.seed))


def of_step(table: Any, keys: Any) -> Any:
    """The entry of a step; some rows of the first one for the shapes that a state is made for."""
    if jnp.issubdtype(keys.dtype, jnp.integer):
        return jax.tree.map(lambda x: x[keys], table)
    return jax.tree.map(lambda x: x[0, : len(keys)], table)


def silenced(
    optimizer: optax.GradientTransformationExtraArgs, silent: tuple[str, ...]
) -> optax.GradientTransformationExtraArgs:
    """The optimizer, for which some gradients are zero; "qkv/bias/key" is a third of a leaf."""

    def silence(path, gradient):
        if path.endswith("qkv/bias") and "qkv/bias/key" in silent:
            query, key, value = jnp.split(gradient, 3)
            return jnp.concatenate([query, jnp.zeros_like(key), value])
        return jnp.zeros_like(gradient) if silent and path.endswith(silent) else gradient

    def update(gradients, state, params, **extra):
        return optimizer.update(map_with_path(silence, gradients), state, params, **extra)

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


def column(history, name: str) -> list[float]:
    """A metric of every step."""
    return [metrics[name] for _, metrics in history[1:]]


def table(schedule, steps: int) -> np.ndarray:
    """A schedule at every step from 0."""
    return np.asarray(jax.vmap(schedule)(jnp.arange(steps)))


def total_gradient_norm(golden) -> np.ndarray:
    """Of every step, from the recorded norms of each parameter's gradient."""
    return np.sqrt(np.nansum(golden["gradient_norm"] ** 2, axis=1))
