"""Weights that a pre-training starts from in place of random ones: ``model.init_from``."""

import dataclasses
from typing import Any

import flax.linen as nn
import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from repre_jax.errors import UserError
from repre_jax.evaluation.checkpoint import NO_MATTER, Pretrained, load_networks, open_pretrained
from repre_jax.models.conv_stem import frozen
from repre_jax.models.positions import resize_learned_positions
from repre_jax.training.learner import Learner

# Of an encoder: what says nothing on what its parameters mean.
_NO_MATTER = NO_MATTER | {"float32_residual", "image_size", "initialisation"}
_POSITIONS = "position_embedding"


def start_of(config: ConfigDict, learner: Learner) -> tuple[list[Any], str]:
    """(arguments of ``Learner.init`` for a new run of ``config``, a sentence where they are any).

    Raises:
      UserError: as of ``starting_weights``.
    """
    if not config.model.init_from:
        return [], ""
    start, told = starting_weights(config, learner)
    return [start], told


def starting_weights(config: ConfigDict, learner: Learner) -> tuple[dict[str, Any], str]:
    """What ``model.init_from`` holds for a learner, and a sentence that says so.

    The encoder has the weights that its method's paper evaluates. Heads, tokens and branch come
    along from a run of the same method, each if it has the same shapes. Optimizer, memory and
    clock begin anew.

    Returns:
      ({"params", "batch_stats"} for ``Learner.init``, sentence).

    Raises:
      UserError: no such run or file, or another encoder than the config's.
    """
    where = config.model.init_from
    pretrained = open_pretrained(where)
    _check_same_encoder(where, pretrained.encoder, frozen(learner.encoder))
    params, batch_stats = load_networks(pretrained)
    wanted = learner.shapes
    grids = (getattr(x, "grid", None) for x in (pretrained.encoder, learner.encoder))
    params["encoder"], resized = _on_its_grid(params["encoder"], *grids)
    same_method = pretrained.config.task == "pretrain" and pretrained.method == config.method.name
    found, shapes = _parts(params), _parts(wanted.params)
    taken = [
        part
        for part in shapes
        if part == "encoder" or (same_method and _shapes(found.get(part)) == _shapes(shapes[part]))
    ]
    if _shapes(found["encoder"]) != _shapes(shapes["encoder"]):
        raise UserError(
            f"model.init_from={where} holds an encoder of other shapes than {config.model.name} "
            f"with model.image_size={config.model.image_size}: train at "
            f"{pretrained.config.model.image_size}."
        )
    stats = {
        part: x for part, x in batch_stats.items() if part in taken or f"heads/{part}" in taken
    }
    start = {"params": _joined({part: found[part] for part in taken}), "batch_stats": stats}
    return start, _sentence(
        pretrained, taken, [part for part in shapes if part not in taken], resized
    )


def _check_same_encoder(where: str, theirs: nn.Module, ours: nn.Module) -> None:
    """Raises UserError where the same arrays would mean something else."""
    if type(theirs) is not type(ours):
        raise UserError(
            f"model.init_from={where} holds a {type(theirs).__name__}, and this run trains a "
            f"{type(ours).__name__}: set model.name."
        )
    for field in dataclasses.fields(ours):
        there, here = getattr(theirs, field.name), getattr(ours, field.name)
        if field.name not in _NO_MATTER and there != here:
            raise UserError(
                f"model.init_from={where} holds an encoder with {field.name}={there}, and this run "
                f"has {here}: make its model keys the same."
            )


def _on_its_grid(
    encoder: Any, theirs: tuple[int, int] | None, ours: tuple[int, int] | None
) -> tuple[Any, bool]:
    """Learned positions for this run's image size, and whether they had another."""
    positions = encoder.get(_POSITIONS)
    if positions is None or theirs == ours:
        return encoder, False
    # As the encoder itself does for images of that size.
    resized = resize_learned_positions(positions, theirs, ours, guard=0.1).astype(np.float32)
    return {**encoder, _POSITIONS: resized}, True


def _parts(params: Any) -> dict[str, Any]:
    """{"encoder", "heads/projector", ..., "repre"}: what is taken whole or not at all."""
    parts = {name: tree for name, tree in params.items() if name != "heads"}
    return parts | {f"heads/{name}": tree for name, tree in params.get("heads", {}).items()}


def _joined(parts: dict[str, Any]) -> dict[str, Any]:
    params = {name: tree for name, tree in parts.items() if "/" not in name}
    heads = {name.removeprefix("heads/"): tree for name, tree in parts.items() if "/" in name}
    return params | {"heads": heads}


def _shapes(tree: Any) -> dict[str, tuple[int, ...]] | None:
    return tree and {path: x.shape for path, x in flatten_dict(tree, sep="/").items()}


def _sentence(pretrained: Pretrained, taken: list[str], anew: list[str], resized: bool) -> str:
    grid = ", the positions resized" if resized else ""
    begin = f"; {', '.join(anew)} begin anew" if anew else ""
    return (
        f"Starts from {pretrained.run.name}, step {pretrained.step:,}, {pretrained.weights} "
        f"weights: {', '.join(taken)}{grid}{begin}."
    )
