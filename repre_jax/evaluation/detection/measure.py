"""The training of a detector from top to bottom: encoder, state, loop, validation; resumes exactly.

A Mask R-CNN on the checkpoint's encoder learns a set in COCO's format and is measured as COCO
measures it. The validation set chooses nothing: a run's value is that of its last step.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

from repre_jax.data.detection.batches import detection_batches
from repre_jax.data.detection.coco import open_coco
from repre_jax.data.device.prefetch import DevicePrefetcher, prefetch_to_device
from repre_jax.errors import UserError
from repre_jax.evaluation.checkpoint import Pretrained
from repre_jax.evaluation.detection.recipes import (
    RANGES,
    RECIPES,
    DetectionRecipe,
    check_canvases,
    described,
    protocol_of_backbone,
    published_recipe,
    views_of,
    with_changes,
)
from repre_jax.evaluation.detection.step import (
    DetectionState,
    Trainer,
    build_detector,
    build_trainer,
    detection_step,
    initial_state,
)
from repre_jax.evaluation.detection.validation import Validation
from repre_jax.evaluation.task import ENCODER_FREE_TO_CHANGE, ENCODER_RANGES, Evaluation, Task
from repre_jax.image_size import height_and_width
from repre_jax.models.swin import Swin
from repre_jax.ranges import AT_LEAST_ONE, NOT_NEGATIVE
from repre_jax.runs.checkpoints import Checkpoints
from repre_jax.runs.interruption import Interruption
from repre_jax.runs.logs import RunLogs
from repre_jax.runs.loop import TrainingLoop, open_training
from repre_jax.schedules import Clock
from repre_jax.sharding import all_replicated, by_row, jitted


@dataclasses.dataclass(frozen=True)
class Run:
    """The training of a detector under way, apart from its state.

    Attributes:
      evaluation: config, images, devices, folder.
      trainer: static parts of the step.
      clock: of the run.
      validation: on the validation images.
      checkpoints: of this run.
      logs: of this run.
    """

    evaluation: Evaluation
    trainer: Trainer
    clock: Clock
    validation: Validation
    checkpoints: Checkpoints
    logs: RunLogs


def measure_detection(evaluation: Evaluation) -> dict[str, Any]:
    """Average precision of boxes and masks, of a detector on the encoder.

    Returns:
      This task's part of results.json.

    Raises:
      Stopped: it was asked to, and has saved.
      UserError: whatever the user can mend.
    """
    trainer, clock, params = build(evaluation)
    with contextlib.ExitStack() as stack:
        opened = open_training(
            evaluation.folder,
            functools.partial(initial_state, trainer),
            params,
            shardings=all_replicated(evaluation.mesh),
            total_steps=clock.total_steps,
            batch_size=trainer.recipe.batch_size,
            keep=evaluation.config.keep_checkpoints,
            best_metric=None,
        )
        state, checkpoints, logs, interruption = stack.enter_context(opened)
        validation = Validation(evaluation, trainer)
        if not state.step:
            validation.try_out(state.params)
        run = Run(evaluation, trainer, clock, validation, checkpoints, logs)
        batches = stack.enter_context(open_batches(run, int(state.step)))
        state, metrics = train(run, state, batches, interruption)
        return results(run, state, metrics)


def default_protocol(pretrained: Pretrained) -> str:
    """That of the backbone."""
    return protocol_of_backbone(pretrained.config.model.name)


TASK = Task(
    measure=measure_detection,
    ranges={
        **ENCODER_RANGES,
        "data.workers": NOT_NEGATIVE,
        "validate_every_epochs": NOT_NEGATIVE,
        "save_every_steps": NOT_NEGATIVE,
        "keep_checkpoints": AT_LEAST_ONE,
        "log_every_steps": NOT_NEGATIVE,
        **RANGES,
    },
    free_to_change=(
        *ENCODER_FREE_TO_CHANGE,
        "data.path",
        "data.workers",
        "save_every_steps",
        "keep_checkpoints",
        "log_every_steps",
    ),
    open=open_coco,
    own_data=True,
    protocols=tuple(RECIPES),
    default_protocol=default_protocol,
    less_memory="Set recipe.remat=block, more devices or a smaller recipe.batch_size; where "
    "validation takes too much, a smaller batch_size.",
)


def build(evaluation: Evaluation) -> tuple[Trainer, Clock, Any]:
    """(static parts, clock, the encoder's parameters at step 0) that the config describes.

    Raises:
      UserError: a recipe, images that are not square, or a batch that neither images nor devices
        can share.
    """
    config, pretrained, train = evaluation.config, evaluation.pretrained, evaluation.train
    recipe = with_changes(published_recipe_of(evaluation), config.recipe.to_dict())
    height, width = height_and_width(config.image_size)
    if height != width:
        raise UserError(f"image_size={config.image_size} must be one number: the long side.")
    on_swin = isinstance(pretrained.encoder, Swin)
    check_canvases(recipe, height, shapes_are_free=on_swin)
    if on_swin and config.recipe.window is not None:
        raise UserError(
            f"recipe.window={config.recipe.window} is that of a ViT's attention; a Swin keeps its "
            "own: leave it out."
        )
    evaluation.check_batch("recipe.batch_size", recipe.batch_size)
    steps_per_epoch = len(train) // recipe.batch_size
    clock = Clock(steps_per_epoch, max(1, round(recipe.epochs * steps_per_epoch)))
    if recipe.warmup_steps >= clock.total_steps:
        raise UserError(
            f"recipe.warmup_steps={recipe.warmup_steps} is not less than the "
            f"{clock.total_steps:,} steps of the whole training: the learning rate would never "
            "reach its peak."
        )
    detector, params = build_detector(
        pretrained.encoder,
        evaluation.pretrained.load_params(),
        recipe,
        side=height,
        classes=len(train.class_names),
        mesh=evaluation.mesh,
    )
    trainer = build_trainer(detector, params, recipe, side=height, clock=clock, seed=config.seed)
    return trainer, clock, params


def published_recipe_of(evaluation: Evaluation) -> DetectionRecipe:
    """The recipe that the config names, for the encoder at hand."""
    return published_recipe(evaluation.config.protocol, evaluation.pretrained.config.model.name)


def open_batches(run: Run, start_step: int) -> DevicePrefetcher:
    """The training batches from ``start_step`` on, on the devices."""
    config, trainer = run.evaluation.config, run.trainer
    batches = detection_batches(
        run.evaluation.train,
        views_of(trainer.recipe, trainer.side),
        batch_size=trainer.recipe.batch_size,
        seed=config.seed,
        start_step=start_step,
        total_steps=run.clock.total_steps,
        workers=config.data.workers,
    )
    return prefetch_to_device(batches, by_row(run.evaluation.mesh))


def train(
    run: Run, state: DetectionState, batches: DevicePrefetcher, interruption: Interruption
) -> tuple[DetectionState, dict[str, float]]:
    """Steps until the end; returns the state and the metrics of the last step."""
    config, clock = run.evaluation.config, run.clock
    loop = TrainingLoop(
        step=jitted(
            functools.partial(detection_step, run.trainer), run.evaluation.mesh, donate_argnums=0
        ),
        total_steps=clock.total_steps,
        log_every=config.log_every_steps,
        save_every=config.save_every_steps,
        checkpoints=run.checkpoints,
        logs=run.logs,
        source=run.evaluation.train,
        measure=lambda state: run.validation.metrics(state.params),
        # A small share of an epoch is every step, not never.
        measure_every=math.ceil(config.validate_every_epochs * clock.steps_per_epoch),
        advice="Lower recipe.learning_rate, or set compute_dtype=float32, in a new --workdir.",
    )
    return loop.run(state, batches, interruption)


def results(run: Run, state: DetectionState, metrics: Mapping[str, float]) -> dict[str, Any]:
    """This task's part of results.json, from the state and the metrics of the last step."""
    evaluation, trainer, clock = run.evaluation, run.trainer, run.clock
    if not run.validation.precisions:  # the last measurement was another process's
        run.validation.metrics(state.params)
    run.validation.draw(state.params)
    box, mask = metrics["val/box_AP"], metrics["val/mask_AP"]
    recipe = described(trainer.recipe, published_recipe_of(evaluation), trainer.side)
    return {
        "metric": "box_ap",
        "value": box,
        "protocol": f"detection_{evaluation.config.protocol}",
        "formula": f"COCO's AP of boxes; {recipe}; last epoch",
        "metrics": {
            **run.validation.precisions,
            "images_cut_short": run.validation.cut_short,
            "epochs": clock.total_steps / clock.steps_per_epoch,
            "steps": clock.total_steps,
            "images_per_second": run.logs.images_per_second,
        },
        "wall_seconds": round(run.logs.wall_seconds, 2),
        "line": evaluation.line(
            f"box AP {100 * box:.1f}, mask AP {100 * mask:.1f} (recipe "
            f"{evaluation.config.protocol}, last epoch)"
        ),
    }
