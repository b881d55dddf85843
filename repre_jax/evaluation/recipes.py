"""What the recipes of trainings on an encoder share: dataclasses of numbers, by protocol."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from repre_jax.ranges import Range, check_ranges

Recipe = TypeVar("Recipe")


def for_model(
    recipes: Mapping[str, Recipe],
    exceptions: Mapping[tuple[str, str], Mapping[str, Any]],
    protocol: str,
    model_name: str,
) -> Recipe:
    """The protocol's recipe for an encoder; what has none of its own gets the protocol's.

    Args:
      recipes: protocol -> recipe.
      exceptions: (protocol, model) -> fields that are other there.
      protocol: a key of ``recipes``.
      model_name: a key of ``models.BACKBONES``.
    """
    return dataclasses.replace(recipes[protocol], **exceptions.get((protocol, model_name), {}))


def replaced(recipe: Recipe, changes: Mapping[str, Any], ranges: Mapping[str, Range]) -> Recipe:
    """The recipe with those fields replaced that ``changes`` sets, None being the recipe's.

    Raises:
      UserError: a value is out of its range, by "recipe.<field>" of ``ranges``.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    recipe = dataclasses.replace(recipe, **given)
    check_ranges({"recipe": vars(recipe)}, ranges)
    return recipe


def departures(recipe: Recipe, published: Recipe) -> str:
    """What differs from the published recipe, to end a sentence with."""
    changed = [
        f"{name}={value} for {getattr(published, name)}"
        for name, value in vars(recipe).items()
        if value != getattr(published, name)
    ]
    return f"; changed from the published recipe: {', '.join(changed)}" if changed else ""
