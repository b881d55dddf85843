"""Everything that changes during a run, in one pytree: all of it saved, all of it restored."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from repre_jax.methods.method import Method
from repre_jax.methods.repre import RePre
from repre_jax.models.taps import apply_with_taps

# Keeps the draws of the initial memory apart from all others of the same seed ("memo" in ASCII).
_MEMORY_STREAM = 0x6D656D6F


class TrainState(struct.PyTreeNode):
    """State of a run after ``step`` steps; parameters and moments are float32.

    Attributes:
      step: int32, steps taken, skipped ones included; every schedule is a function of it.
      params: {"encoder", "heads", "repre"?}.
      target_params: {"encoder", "heads"}: moving average, only the heads that the target has; {}
        for methods without a target network.
      batch_stats: running statistics of the online heads.
      target_batch_stats: those of the target heads; its own, never a copy or an average.
      opt_state: of the optimizer.
      memory: what the method remembers (DINO's centre, the queues of MoCo v2 and MoBY).
      nonfinite_steps: int32, steps skipped because loss or gradient was not finite.
      nonfinite_in_a_row: int32, how many of them directly before now.
    """

    step: jax.Array
    params: Any
    target_params: Any
    batch_stats: Any
    target_batch_stats: Any
    opt_state: Any
    memory: Any
    nonfinite_steps: jax.Array
    nonfinite_in_a_row: jax.Array


def init_encoder(encoder: nn.Module, *, image_size: int, seed: int) -> Any:
    """Initial parameters of the encoder alone, those of ``init_params`` for the same seed."""
    image = jnp.zeros((1, image_size, image_size, 3))
    return encoder.init(jax.random.split(jax.random.key(seed), 3)[0], image)["params"]


def init_params(
    encoder: nn.Module, method: Method, repre: RePre | None, *, image_size: int, seed: int
) -> tuple[Any, Any]:
    """Initial (params, batch_stats), a function of the seed alone.

    Runs the encoder on one image; use it under ``jax.jit`` or ``jax.eval_shape``.
    """
    keys = jax.random.split(jax.random.key(seed), 3)
    image = jnp.zeros((1, image_size, image_size, 3))
    params = {"encoder": init_encoder(encoder, image_size=image_size, seed=seed)}
    variables = {"params": params["encoder"]}
    encoded, maps = apply_with_taps(encoder, variables, image, repre.taps if repre else ())
    views = len(method.online_views)
    pooled = jnp.broadcast_to(encoded.pooled[:, None], (2, views, encoded.pooled.shape[-1]))
    heads = method.heads.init(keys[1], pooled, train=True)
    params["heads"] = heads["params"]
    if repre:
        params["repre"] = repre.init(keys[2], maps)
    return params, heads.get("batch_stats", {})


def create_train_state(
    encoder: nn.Module,
    method: Method,
    repre: RePre | None,
    optimizer: optax.GradientTransformation,
    *,
    image_size: int,
    seed: int,
) -> TrainState:
    """The state at step 0; the target starts as a copy of the online network."""
    params, batch_stats = init_params(encoder, method, repre, image_size=image_size, seed=seed)
    target_params = target_part(method, params)
    target_stats = {k: v for k, v in batch_stats.items() if k in (method.target_heads or ())}
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        step=zero,
        params=params,
        target_params=jax.tree.map(jnp.copy, target_params),
        batch_stats=batch_stats,
        target_batch_stats=jax.tree.map(jnp.copy, target_stats),
        opt_state=optimizer.init(params),
        memory=method.initial_memory(jax.random.fold_in(jax.random.key(seed), _MEMORY_STREAM)),
        nonfinite_steps=zero,
        nonfinite_in_a_row=zero,
    )


def target_part(method: Method, params: Any) -> Any:
    """The part of the online parameters that the target network averages."""
    if method.target_heads is None:
        return {}
    heads = {name: params["heads"][name] for name in method.target_heads}
    return {"encoder": params["encoder"], "heads": heads}
