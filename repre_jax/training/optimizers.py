"""Optimizers as the recipes use them, built from optax.

Learning rate and weight decay are functions of the train state's step, which every ``update`` is
given as the keyword ``step``; no transformation keeps a clock of its own, except Adam's bias
correction.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from repre_jax.methods.method import Frozen
from repre_jax.schedules import Schedule

DECAY_RULES = ("all", "matrices", "kernels", "all_but_norms")
_NORMS_AND_POSITIONS = re.compile(r"norm|/(position_embedding|relative_position_bias)$")
LOG_VARIANCE = "repre/log_variance"  # takes part in the moments, but in neither decay nor clipping
TRUST_RATIO = optax.scale_by_trust_ratio(trust_coefficient=0.001)  # of LARS


def adamw(*, adam, decay, rate, **_):
    """AdamW (epsilon 1e-8; decoupled decay, lr * wd)."""
    return optax.chain(adam, decay, rate)


def sgd(*, decay, momentum, rate, **_):
    """Decay added to the gradient, momentum, learning rate, as torch.optim.SGD."""
    return optax.chain(decay, momentum, rate)


def lars(*, decay, trust_ratio, momentum, rate, **_):
    """Decay, trust ratio 0.001 |p| / |g| of matrices, momentum, learning rate.

    Source: google-deepmind/deepmind-research, byol/utils/optimizers.py; facebookresearch/moco-v3,
    moco/optimizer.py is the same.
    """
    return optax.chain(decay, trust_ratio, momentum, rate)


def lars_simclr(*, decay, trust_ratio, momentum, rate, **_):
    """LARS whose momentum averages what the learning rate has already scaled.

    Source: google-research/simclr, tf2/lars_optimizer.py, ``classic_momentum``.
    """
    return optax.chain(decay, trust_ratio, rate, momentum)


OPTIMIZERS = {"adamw": adamw, "sgd": sgd, "lars": lars, "lars_simclr": lars_simclr}


def build_optimizer(
    name: str,
    params: Any,
    *,
    learning_rate: Schedule,
    weight_decay: Schedule,
    decay: str,
    betas: tuple[float, float] = (0.9, 0.999),
    momentum: float = 0.9,
    clip_per_tensor: float = 0.0,
    clip_global: float = 0.0,
    frozen: Sequence[Frozen] = (),
    constant_rate: Sequence[str] = (),
    held_learning_rate: Schedule | None = None,
) -> optax.GradientTransformationExtraArgs:
    """An optimizer of ``OPTIMIZERS`` with the habits of the recipes; clipping comes first.

    Args:
      name: in ``OPTIMIZERS``.
      params: tree whose paths and ranks decide what is decayed, clipped, adapted and frozen.
      learning_rate: function of the step.
      weight_decay: function of the step.
      decay: in ``DECAY_RULES``; see ``decayed_parameters``.
      betas: of AdamW.
      momentum: of SGD and LARS.
      clip_per_tensor: largest norm of each gradient tensor, 0 for none (DINO).
      clip_global: largest norm of the whole gradient, 0 for none (MoBY).
      frozen: parameters held still for good, or until a step.
      constant_rate: prefixes of parameters that follow ``held_learning_rate`` instead.
      held_learning_rate: function of the step, needed with ``constant_rate``.
    """
    decayed = decayed_parameters(decay, params)
    clipped = map_with_path(lambda path, x: not path.startswith(LOG_VARIANCE), params)
    adapted = jax.tree.map(lambda x: x.ndim > 1, params)
    held = map_with_path(lambda path, _: path.startswith(tuple(constant_rate)), params)
    rates = {False: learning_rate, True: held_learning_rate or learning_rate}

    def at(step):
        scales = {key: optax.scale_by_learning_rate(rate(step)) for key, rate in rates.items()}
        rule = OPTIMIZERS[name](
            adam=optax.scale_by_adam(*betas, eps=1e-8),
            decay=optax.add_decayed_weights(weight_decay(step), decayed),
            trust_ratio=optax.masked(TRUST_RATIO, adapted),
            momentum=optax.trace(momentum),
            rate=optax.partition(scales, held),
        )
        return optax.chain(
            optax.masked(clip_by_tensor_norm(clip_per_tensor), clipped),
            optax.masked(clip_by_global_norm(clip_global), clipped),
            hold_still(rule, params, frozen, step),
        )

    # The numbers of a step, not schedules: optax's count updates and lag behind a skipped step.
    return optax.GradientTransformationExtraArgs(
        lambda params: at(0).init(params),
        lambda updates, state, params, *, step, **_: at(step).update(updates, state, params),
    )


def decayed_parameters(rule: str, params: Any) -> Any:
    """Tree of booleans: which parameters weight decay acts on.

    Args:
      rule: "all" parameters (MoCo, SimSiam: ``model.parameters()``); "matrices" only, those of rank
        two and more (the other methods; so class token and positions decay, too); "kernels",
        without tokens, positions and relative position biases (fine-tuning in MAE and SimMIM); or
        "all_but_norms", absolute positions and Swin's biases of relative ones (detection).
      params: tree whose paths and ranks decide.
    """
    if rule not in DECAY_RULES:
        raise ValueError(f"decay={rule!r} must be one of {DECAY_RULES}")

    def decays(path, x):
        if path.startswith(LOG_VARIANCE):
            return False
        if rule == "all_but_norms":
            return not _NORMS_AND_POSITIONS.search(path)
        return rule == "all" or (x.ndim > 1 if rule == "matrices" else path.endswith("kernel"))

    return map_with_path(decays, params)


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


def clip_by_global_norm(limit: float) -> optax.GradientTransformation:
    """Scales all tensors by min(1, limit / (norm of them all + 1e-6)); ``limit`` 0 does nothing.

    Source: torch.nn.utils.clip_grad_norm_; ``optax.clip_by_global_norm`` is without the 1e-6.
    """
    if limit <= 0:
        return optax.identity()

    def clip(updates, params):
        factor = jnp.minimum(1.0, limit / (optax.tree.norm(updates) + 1e-6))
        return jax.tree.map(lambda x: x * factor, updates)

    return optax.stateless(clip)


def hold_still(
    optimizer: optax.GradientTransformation, params: Any, frozen: Sequence[Frozen], step: jax.Array
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
            groups[name] = taken_if(step >= int(name.removeprefix("from_")), optimizer)
    return optax.partition(groups, labels)


def taken_if(
    free: jax.Array, optimizer: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Zero updates and an untouched state unless ``free``.

    ``optax.conditionally_mask`` does the same, but keeps a clock of its own in the state.
    """

    def update(updates, state, params=None):
        taken = optimizer.update(updates, state, params)
        return optax.tree.where(free, taken, (optax.tree.zeros_like(updates), state))

    return optax.GradientTransformation(optimizer.init, update)
