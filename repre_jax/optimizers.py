"""Optimizers as the recipes use them, built from optax.

Learning rate and weight decay are functions of the train state's step, which every ``update`` is
given as the keyword ``step``; no transformation keeps a clock of its own, except Adam's bias
correction.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from repre_jax.methods.method import Frozen
from repre_jax.schedules import Schedule

DECAY_RULES = ("all", "matrices")
LOG_VARIANCE = "repre/log_variance"  # takes part in Adam, but in neither decay nor clipping


def adamw(
    params: Any,
    *,
    learning_rate: Schedule,
    weight_decay: Schedule,
    decay: str,
    clip_per_tensor: float = 0.0,
    frozen: Sequence[Frozen] = (),
) -> optax.GradientTransformationExtraArgs:
    """AdamW (0.9, 0.999, 1e-8; decoupled decay, lr * wd) with the habits of the recipes.

    Order as in torch and the official codes: clip, moments, decay, learning rate.

    Args:
      params: tree whose paths decide what is decayed, clipped and frozen.
      learning_rate: function of the step.
      weight_decay: function of the step.
      decay: "all" parameters (MoCo v3 passes ``model.parameters()``) or "matrices" only, those of
        rank two and more (DINO, which so decays class token and positions, too).
      clip_per_tensor: largest norm of each gradient tensor, 0 for none (DINO clips tensors one by
        one, not the whole gradient).
      frozen: parameters held still for good, or until a step.
    """
    if decay not in DECAY_RULES:
        raise ValueError(f"decay={decay!r} must be one of {DECAY_RULES}")
    decayed = map_with_path(
        lambda path, x: not path.startswith(LOG_VARIANCE) and (decay == "all" or x.ndim > 1), params
    )
    clipped = map_with_path(lambda path, x: not path.startswith(LOG_VARIANCE), params)
    chain = optax.chain(
        optax.masked(clip_by_tensor_norm(clip_per_tensor), clipped),
        optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8),
        add_scheduled_decay(weight_decay, decayed),
        scale_by_schedule(learning_rate),
    )
    return hold_still(chain, params, frozen)


def map_with_path(function, tree: Any) -> Any:
    """Maps ``function(path, leaf)`` over a tree, paths as "encoder/block_0/norm_1/scale"."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function(jax.tree_util.keystr(path, simple=True, separator="/"), leaf),
        tree,
    )


def clip_by_tensor_norm(limit: float) -> optax.GradientTransformation:
    """Scales each tensor by min(1, limit / (norm + 1e-6)); ``limit`` 0 does nothing.

    Source: facebookresearch/dino, utils.py, clip_gradients.
    """
    if limit <= 0:
        return optax.identity()

    def clip(gradient):
        norm = jnp.linalg.norm(gradient.reshape(-1))
        return gradient * jnp.minimum(1.0, limit / (norm + 1e-6))

    return optax.stateless(lambda updates, params: jax.tree.map(clip, updates))


def add_scheduled_decay(schedule: Schedule, mask: Any) -> optax.GradientTransformationExtraArgs:
    """Adds schedule(step) * parameter where ``mask`` holds."""

    def update(updates, state, params, *, step, **_):
        decay = schedule(step)
        # optax.partition hides other groups' leaves from ``updates``; the mask knows all of them.
        hidden = lambda x: isinstance(x, optax.MaskedNode)  # noqa: E731
        updates = jax.tree.map(
            lambda update, param, decayed: (
                update if hidden(update) or not decayed else update + decay * param
            ),
            updates,
            params,
            mask,
            is_leaf=hidden,
        )
        return updates, state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def scale_by_schedule(schedule: Schedule) -> optax.GradientTransformationExtraArgs:
    """Multiplies by -schedule(step)."""

    def update(updates, state, params=None, *, step, **_):
        rate = schedule(step)
        return jax.tree.map(lambda x: -rate * x, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def hold_still(
    optimizer: optax.GradientTransformationExtraArgs, params: Any, frozen: Sequence[Frozen]
) -> optax.GradientTransformationExtraArgs:
    """Gives frozen parameters groups of their own, which see no update while they are frozen.

    Zeroed gradients would not do: decay would go on, moments would decay, and Adam's count would
    run ahead, making the first free steps too small in their bias correction.
    """

    def label(path, _):
        until = [f.until_step for f in frozen if f.covers(path)]
        if not until:
            return "free"
        return "never" if None in until else f"from_{max(until)}"

    labels = map_with_path(label, params)
    groups = {"free": optimizer}
    for name in set(jax.tree.leaves(labels)) - {"free"}:
        if name == "never":
            groups[name] = optax.set_to_zero()
        else:
            groups[name] = from_step(optimizer, int(name.removeprefix("from_")))
    return optax.partition(groups, labels)


def from_step(
    optimizer: optax.GradientTransformationExtraArgs, first: int
) -> optax.GradientTransformationExtraArgs:
    """Zero updates and an untouched state before step ``first``, ``optimizer`` from there on."""

    def update(updates, state, params, *, step, **extra):
        new_updates, new_state = optimizer.update(updates, state, params, step=step, **extra)
        free = step >= first
        updates = jax.tree.map(lambda new: jnp.where(free, new, 0), new_updates)
        state = jax.tree.map(lambda new, old: jnp.where(free, new, old), new_state, state)
        return updates, state

    return optax.GradientTransformationExtraArgs(optimizer.init, update)
