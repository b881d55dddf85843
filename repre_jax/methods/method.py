"""What a contrastive framework is to the rest of the library."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from repre_jax.data.recipes import FAMILIES, ViewRecipe
from repre_jax.errors import UserError
from repre_jax.ranges import AT_LEAST_ONE, NOT_NEGATIVE, SHARE, check_ranges
from repre_jax.schedules import Schedule

Memory = Any  # a pytree of arrays; {} for methods that remember nothing
Outputs = Any  # what online heads return: [B, V, K] mostly


@dataclasses.dataclass(frozen=True)
class Frozen:
    """Parameters that an optimizer leaves alone: no update, no decay, no moments, no count.

    Attributes:
      prefix: path of the parameters, "encoder/patch_embed" say.
      until_step: first step that updates them; None for never.
    """

    prefix: str
    until_step: int | None = None

    def covers(self, path: str) -> bool:
        """Whether ``path`` is the prefix or lies under it."""
        return path == self.prefix or path.startswith(self.prefix + "/")


@dataclasses.dataclass(frozen=True)
class EvaluationDefaults:
    """How what a method has learnt is evaluated where nobody asks for something else.

    Attributes:
      feature: of ``evaluation.frozen.FEATURES``, for k-NN, few labels and health.
      linear: of ``evaluation.linear.protocols.LINEAR_PROTOCOLS``. MoCo v3's serves the methods
        whose own is made for a ResNet-50.
      finetune: of ``evaluation.finetune.recipes.RECIPES``; None for the backbone's.
    """

    feature: str = "pooled"
    linear: str = "moco_v3"
    finetune: str | None = None


@dataclasses.dataclass(frozen=True)
class Method:
    """One paper's framework, as the parts that the train step asks for.

    Attributes:
      views: the augmentation recipe.
      heads: module from pooled features [B, V, D] to the outputs that ``loss`` takes; called with
        ``train=True`` for the online network, and through its method ``target``, [B, T, D] ->
        [B, T, K], for the target network.
      loss: (online outputs, target [B, T, K], memory, step) -> (float32 [B], metrics). The target's
        outputs carry no gradient; without a target network they are None. The loss is never
        negative, or RePre's learned weights would run away (losses/weighting.py).
      evaluated: "online" or "target", the weights that the paper evaluates.
      target_heads: children of ``params["heads"]`` that the target network copies; None: there is
        no target network.
      momentum: of the moving average at the end of a step, a function of that step.
      online_views: global views that pass through the online network, neighbours in this order;
        local crops follow.
      target_views: global views that pass through the target network, likewise.
      initial_memory: key -> what the loss remembers between steps, at step 0.
      update_memory: (memory, target [B, T, K]) -> memory of the next step.
      multi_crop: whether the loss knows what to do with local crops.
      frozen: parameters held still.
      constant_rate: prefixes of the parameters whose learning rate stays at the peak after warm-up.
      evaluation: how its encoder is evaluated by default.
    """

    views: ViewRecipe
    heads: nn.Module
    loss: Callable[
        [Outputs, jax.Array | None, Memory, jax.Array], tuple[jax.Array, dict[str, jax.Array]]
    ]
    evaluated: str
    target_heads: tuple[str, ...] | None = None
    momentum: Schedule = lambda step: jnp.float32(1)
    online_views: tuple[int, ...] = (0, 1)
    target_views: tuple[int, ...] = (0, 1)
    initial_memory: Callable[[jax.Array], Memory] = lambda key: {}
    update_memory: Callable[[Memory, jax.Array], Memory] = lambda memory, target: memory
    multi_crop: bool = False
    frozen: tuple[Frozen, ...] = ()
    constant_rate: tuple[str, ...] = ()
    evaluation: EvaluationDefaults = EvaluationDefaults()


FROZEN_PATCH_EMBEDDING = Frozen("encoder/patch_embed")


def check_heads(config: ConfigDict, *allowed: str) -> str:
    """``config.heads``, whose values are ``allowed``; UserError when it is none of them."""
    if config.heads not in allowed:
        raise UserError(f"method.heads={config.heads!r} must be one of {', '.join(allowed)}.")
    return config.heads


_VIEW_RANGES = {
    "views.local_crops": NOT_NEGATIVE,
    "views.local_size": AT_LEAST_ONE,
    "views.jitter": NOT_NEGATIVE,
    "views.flip_probability": SHARE,
    "views.jitter_probability": SHARE,
    "views.grey_probability": SHARE,
    "views.blur_probability": SHARE,
    "views.solarise_probability": SHARE,
    "views.local_blur_probability": SHARE,
}


def with_overrides(recipe: ViewRecipe, overrides: ConfigDict) -> ViewRecipe:
    """The paper's recipe with those fields replaced that ``config.views`` sets.

    Raises:
      UserError: a value that no view can have.
    """
    # A recorded config.json holds lists where the recipe holds tuples.
    given = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in overrides.items()
        if value is not None
    }
    for name, value in given.items():
        usual = getattr(recipe, name)
        if isinstance(usual, tuple) and len(value) != len(usual):
            raise UserError(f"views.{name}={value} must have {len(usual)} numbers, like {usual}.")
    recipe = dataclasses.replace(recipe, **given)
    for name in ("crop_scale", "local_crop_scale"):
        low, high = getattr(recipe, name)
        if not 0 < low <= high <= 1:
            raise UserError(f"views.{name}=({low}, {high}) must satisfy 0 < low <= high <= 1.")
    check_ranges({"views": given}, _VIEW_RANGES)
    low, high = recipe.blur_sigma
    if not 0 < low <= high:
        raise UserError(f"views.blur_sigma=({low}, {high}) must satisfy 0 < low <= high.")
    if recipe.interpolation not in ("bilinear", "bicubic"):
        raise UserError(
            f"views.interpolation={recipe.interpolation!r} must be 'bilinear' or 'bicubic'."
        )
    if recipe.photometric not in FAMILIES:
        raise UserError(
            f"views.photometric={recipe.photometric!r} must be among {', '.join(FAMILIES)}."
        )
    return recipe
