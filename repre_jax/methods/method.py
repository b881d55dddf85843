"""What a contrastive framework is to the rest of the library."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from repre_jax.data.recipes import ViewRecipe
from repre_jax.errors import UserError
from repre_jax.schedules import Schedule

Memory = Any  # a pytree of arrays; {} for methods that remember nothing


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
class Method:
    """One paper's framework, as the parts that the train step asks for.

    Attributes:
      views: the augmentation recipe.
      heads: module from pooled features [B, V, D] to outputs [B, V, K]; called with ``train=True``
        for the online network, and through its method ``target`` for the target network.
      target_heads: children of ``params["heads"]`` that the target network copies.
      momentum: of the moving average at the end of a step, a function of that step.
      loss: (online [B, V, K], target [B, 2, K], memory, step) -> (float32 [B], metrics). The
        target's outputs carry no gradient.
      initial_memory: what the loss remembers between steps, at step 0.
      update_memory: (memory, target [B, 2, K]) -> memory of the next step.
      frozen: parameters held still.
      evaluated: "online" or "target", the weights that the paper evaluates.
    """

    views: ViewRecipe
    heads: nn.Module
    target_heads: tuple[str, ...]
    momentum: Schedule
    loss: Callable[
        [jax.Array, jax.Array, Memory, jax.Array], tuple[jax.Array, dict[str, jax.Array]]
    ]
    initial_memory: Memory
    update_memory: Callable[[Memory, jax.Array], Memory]
    frozen: tuple[Frozen, ...]
    evaluated: str


def with_overrides(recipe: ViewRecipe, overrides: ConfigDict) -> ViewRecipe:
    """The paper's recipe with those fields replaced that ``config.views`` sets.

    Raises:
      UserError: a value that no view can have.
    """
    given = {key: value for key, value in overrides.items() if value is not None}
    for name, value in given.items():
        usual = getattr(recipe, name)
        if isinstance(usual, tuple) and len(value) != len(usual):
            raise UserError(f"views.{name}={value} must have {len(usual)} numbers, like {usual}.")
    recipe = dataclasses.replace(recipe, **given)
    for name in ("crop_scale", "local_crop_scale"):
        low, high = getattr(recipe, name)
        if not 0 < low <= high <= 1:
            raise UserError(f"views.{name}=({low}, {high}) must satisfy 0 < low <= high <= 1.")
    if recipe.interpolation not in ("bilinear", "bicubic"):
        raise UserError(
            f"views.interpolation={recipe.interpolation!r} must be 'bilinear' or 'bicubic'."
        )
    return recipe
