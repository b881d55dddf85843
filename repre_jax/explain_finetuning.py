"""``--explain`` of a fine-tuning: what it would be, and its step compiled for absent devices."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from repre_jax.data.sources.survey import in_words
from repre_jax.errors import UserError
from repre_jax.evaluate import opened
from repre_jax.evaluation.finetune import measure
from repre_jax.evaluation.finetune.recipes import described, views_of
from repre_jax.evaluation.finetune.step import (
    Finetuner,
    initial_state,
    jitted_finetune_step,
    update,
)
from repre_jax.evaluation.task import Evaluation
from repre_jax.image_size import height_and_width
from repre_jax.rematerialisation import level_of, levels_above
from repre_jax.schedules import Clock
from repre_jax.sharding import abstract, all_replicated, by_row, make_mesh
from repre_jax.training import ahead_of_time
from repre_jax.training.accelerators import Topology
from repre_jax.training.compiled import abstract_views
from repre_jax.training.memory import bytes_of
from repre_jax.training.operations import multiply_adds


def explain_finetuning(config: ConfigDict, absent: Topology | None = None) -> str:
    """The resolved fine-tuning as text; nothing is trained or written.

    Args:
      config: of ``configs/eval/finetune.py``.
      absent: devices that are not here, for which to compile the step.

    Raises:
      UserError: whatever the fine-tuning itself would refuse.
    """
    evaluation = _opened(config, absent)
    finetuner, clock, params = measure.build(evaluation)
    lines = _lines(evaluation, finetuner, clock)
    if absent:
        program = compile_finetuning(evaluation, finetuner, params, absent)
        lines += ["", f"compiled for {absent.name}, one of {absent.mesh.size} devices"]
        lines += ["  " + line for line in ahead_of_time.lines(program)]
        if not program.fits:
            fitting = [f"  with {way}" for way in ways_that_fit(evaluation, absent)]
            lines += fitting or ["  nothing that was tried makes it fit"]
            lines.append("  A smaller recipe.batch_size takes less, and is another training.")
    return "\n".join(lines)


def ways_that_fit(evaluation: Evaluation, absent: Topology) -> Iterator[str]:
    """Settings with which a fine-tuning that does not fit does; see ``ahead_of_time.fitting``."""

    def changed(absent: Topology, remat: str) -> ahead_of_time.Program:
        config = evaluation.config.copy_and_resolve_references()
        config.remat = remat
        other = dataclasses.replace(evaluation, config=config, mesh=absent.mesh)
        finetuner, _, params = measure.build(other)
        return compile_finetuning(other, finetuner, params, absent)

    remat = level_of(evaluation.config.remat, "remat")
    topologies = ahead_of_time.larger_topologies(absent, measure.recipe_of(evaluation).batch_size)
    return ahead_of_time.fitting(
        [
            ((f"remat={x}", functools.partial(changed, absent, x)) for x in levels_above(remat)),
            ((told, functools.partial(changed, larger, remat)) for told, larger in topologies),
        ]
    )


def compile_finetuning(
    evaluation: Evaluation, finetuner: Finetuner, params: Any, absent: Topology
) -> ahead_of_time.Program:
    """Compiles ``finetune_step`` for devices that are not here."""
    recipe, encoder, mesh = finetuner.recipe, finetuner.encoder, absent.mesh
    image_size, pixels = evaluation.config.image_size, evaluation.train.pixels.dtype
    state = abstract(functools.partial(initial_state, finetuner), all_replicated(mesh), params)

    def batch(images: int, sharding: jax.sharding.Sharding | None = None) -> Any:
        views = views_of(recipe)
        return abstract_views(views, image_size, encoder.channels, images, sharding, pixels=pixels)

    shape = (recipe.batch_size, *height_and_width(image_size), encoder.channels)
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    targets = jax.ShapeDtypeStruct((recipe.batch_size, finetuner.head.classes), jnp.float32)
    sizes = {
        "parameters": bytes_of(state.params),
        "moving average": bytes_of(state.average),
        "optimizer": bytes_of(state.opt_state),
        "batch": bytes_of(batch(recipe.batch_size // mesh.size)),
    }
    step = jitted_finetune_step(finetuner, mesh)
    return ahead_of_time.compile_lowered(
        lambda: step.lower(state, batch(recipe.batch_size, by_row(mesh))),
        absent,
        batch_size=recipe.batch_size,
        memory=sizes,
        multiply_adds=multiply_adds(functools.partial(update, finetuner), state, images, targets),
        dtype=encoder.dtype.name,
    )


def _opened(config: ConfigDict, absent: Topology | None) -> Evaluation:
    if absent and config.devices not in (0, absent.mesh.size):
        raise UserError(
            f"devices={config.devices}, but --target={absent.name} has {absent.mesh.size}: leave "
            "it at 0."
        )
    config = config.copy_and_resolve_references()
    if absent and config.compute_dtype == "auto":
        config.compute_dtype = "bfloat16"  # that of the devices which are not here
    config, pretrained, train, val = opened(config)
    mesh = absent.mesh if absent else make_mesh(config.devices, key="devices")
    return Evaluation(config, pretrained, train, val, mesh, None)


def _lines(evaluation: Evaluation, finetuner: Finetuner, clock: Clock) -> list[str]:
    config, pretrained, recipe = evaluation.config, evaluation.pretrained, finetuner.recipe
    peak = recipe.learning_rate * recipe.batch_size / 256
    return [
        "the fine-tuning",
        f"  encoder         {pretrained.run.name}, {pretrained.weights} weights, step "
        f"{pretrained.step:,}",
        f"  images          {in_words(evaluation.train, evaluation.val).removeprefix('Images: ')}",
        f"  protocol        {config.protocol}",
        f"  recipe          {described(recipe, measure.published_recipe_of(evaluation))}",
        f"  batch           {recipe.batch_size} = {evaluation.mesh.size} device(s) x "
        f"{recipe.batch_size // evaluation.mesh.size}",
        f"  steps           {clock.total_steps:,} = {recipe.epochs:g} epochs x "
        f"{clock.steps_per_epoch:,}",
        f"  learning rate   {peak:.6g} = {recipe.learning_rate:g} x {recipe.batch_size} / 256",
        f"  compute dtype   {config.compute_dtype}",
    ]
