"""A fine-tuning from top to bottom: encoder, state, loop, validation, metrics; resumes exactly.

The checkpoint's encoder is trained with a classifier on it; a stopped run goes on bit for bit. The
validation set chooses nothing: a run's accuracy is that of its last step, and the best epoch, which
the official codes print, stands beside it.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from repre_jax.data.device.prefetch import DevicePrefetcher
from repre_jax.data.host.crops import CENTRE_CROP
from repre_jax.data.pipeline import prefetch_to_device, training_batches
from repre_jax.data.pixel_format import RGB
from repre_jax.errors import UserError
from repre_jax.evaluation.checkpoint import Pretrained
from repre_jax.evaluation.features import extract_features
from repre_jax.evaluation.finetune.recipes import (
    RANGES,
    RECIPES,
    FinetuneRecipe,
    described,
    protocol_of_backbone,
    published_recipe,
    views_of,
    with_changes,
)
from repre_jax.evaluation.finetune.step import (
    Finetuner,
    FinetuneState,
    build_finetuner,
    finetuned_encoder,
    initial_state,
    jitted_finetune_step,
)
from repre_jax.evaluation.frozen import from_levels
from repre_jax.evaluation.task import SHARED_FREE_TO_CHANGE, SHARED_RANGES, Evaluation, Task
from repre_jax.image_size import height_and_width
from repre_jax.ranges import AT_LEAST_ONE, NOT_NEGATIVE
from repre_jax.rematerialisation import level_of
from repre_jax.runs.checkpoints import Checkpoints
from repre_jax.runs.destinations import best_row
from repre_jax.runs.interruption import Interruption
from repre_jax.runs.logs import RunLogs
from repre_jax.runs.loop import TrainingLoop, open_training
from repre_jax.schedules import Clock
from repre_jax.sharding import all_replicated, by_row

_MEASURED = ("val/", "average/")
_SCORES = ("val/top1", "average/top1")


@dataclasses.dataclass(frozen=True)
class Run:
    """A fine-tuning under way, apart from its state.

    Attributes:
      evaluation: config, images, devices, folder.
      finetuner: static parts of the step.
      clock: of the run.
      validate: parameters -> {"top1", "loss", "top5"?} on the validation images.
      checkpoints: of this run.
      logs: of this run.
    """

    evaluation: Evaluation
    finetuner: Finetuner
    clock: Clock
    validate: Callable[[Any], dict[str, float]]
    checkpoints: Checkpoints
    logs: RunLogs


def measure_finetune(evaluation: Evaluation) -> dict[str, Any]:
    """Accuracy of the whole network, fine-tuned by a recipe of ``finetune.recipes``.

    Returns:
      This task's part of results.json.

    Raises:
      Stopped: it was asked to, and has saved.
      UserError: whatever the user can mend.
    """
    finetuner, clock, params = build(evaluation)
    with contextlib.ExitStack() as stack:
        opened = open_training(
            evaluation.folder,
            functools.partial(initial_state, finetuner),
            params,
            shardings=all_replicated(evaluation.mesh),
            total_steps=clock.total_steps,
            batch_size=finetuner.recipe.batch_size,
            keep=evaluation.config.keep_checkpoints,
            best_metric=_SCORES[0],
        )
        state, checkpoints, logs, interruption = stack.enter_context(opened)
        validate = validation(evaluation, finetuner)
        if not state.step:
            validate(state.params)  # what is wrong with those images shows before the training
        run = Run(evaluation, finetuner, clock, validate, checkpoints, logs)
        batches = stack.enter_context(open_batches(run, int(state.step)))
        state, metrics = train(run, state, batches, interruption)
        return results(run, metrics)


def default_protocol(pretrained: Pretrained) -> str:
    """The method's own, or the backbone's where it has none."""
    return pretrained.defaults.finetune or protocol_of_backbone(pretrained.config.model.name)


TASK = Task(
    measure=measure_finetune,
    ranges={
        **SHARED_RANGES,
        "validate_every_epochs": NOT_NEGATIVE,
        "save_every_steps": NOT_NEGATIVE,
        "keep_checkpoints": AT_LEAST_ONE,
        "log_every_steps": NOT_NEGATIVE,
        **RANGES,
    },
    free_to_change=(
        *SHARED_FREE_TO_CHANGE,
        "remat",
        "save_every_steps",
        "keep_checkpoints",
        "log_every_steps",
    ),
    protocols=tuple(RECIPES),
    default_protocol=default_protocol,
    less_memory="Set remat=block, more devices or a smaller recipe.batch_size.",
)


def build(evaluation: Evaluation) -> tuple[Finetuner, Clock, Any]:
    """(static parts, clock, the encoder's parameters at step 0) that the config describes.

    Raises:
      UserError: a recipe, or a batch that neither images nor devices can share.
    """
    config, pretrained, train = evaluation.config, evaluation.pretrained, evaluation.train
    recipe = recipe_of(evaluation)
    if recipe.rand_augment and train.pixels != RGB:
        raise UserError(
            "RandAugment is defined for RGB of 8 bits, which these images are not: set "
            "--config.recipe.rand_augment=0."
        )
    evaluation.check_batch("recipe.batch_size", recipe.batch_size)
    # Where they lie in the records, reading them all would take as long as an epoch.
    if train.labels_at_hand and (train.labels < 0).any():
        raise UserError(f"{train.description} has images without a label.")
    steps_per_epoch = len(train) // recipe.batch_size
    clock = Clock(steps_per_epoch, max(1, round(recipe.epochs * steps_per_epoch)))
    encoder, params = finetuned_encoder(
        pretrained.encoder,
        evaluation.pretrained.load_params(),
        image_size=config.image_size,
        drop_path=recipe.drop_path,
        remat=level_of(config.remat, "remat"),
    )
    finetuner = build_finetuner(
        encoder,
        recipe,
        params,
        classes=evaluation.classes,
        clock=clock,
        seed=config.seed,
    )
    return finetuner, clock, params


def recipe_of(evaluation: Evaluation) -> FinetuneRecipe:
    """The numbers of the protocol, as the config changes them."""
    return with_changes(published_recipe_of(evaluation), evaluation.config.recipe.to_dict())


def published_recipe_of(evaluation: Evaluation) -> FinetuneRecipe:
    """The recipe that the config names, for the encoder at hand."""
    return published_recipe(evaluation.config.protocol, evaluation.pretrained.config.model.name)


def open_batches(run: Run, start_step: int) -> DevicePrefetcher:
    """The training batches from ``start_step`` on, on the devices."""
    config, recipe = run.evaluation.config, run.finetuner.recipe
    batches = training_batches(
        run.evaluation.train,
        views_of(recipe),
        image_size=config.image_size,
        batch_size=recipe.batch_size,
        seed=config.seed,
        start_step=start_step,
        total_steps=run.clock.total_steps,
        workers=config.data.workers,
    )
    return prefetch_to_device(batches, by_row(run.evaluation.mesh))


def train(
    run: Run, state: FinetuneState, batches: DevicePrefetcher, interruption: Interruption
) -> tuple[FinetuneState, dict[str, float]]:
    """Steps until the end; returns the state and the metrics of the last step."""
    config, clock = run.evaluation.config, run.clock
    loop = TrainingLoop(
        step=jitted_finetune_step(run.finetuner, run.evaluation.mesh),
        total_steps=clock.total_steps,
        log_every=config.log_every_steps,
        save_every=config.save_every_steps,
        checkpoints=run.checkpoints,
        logs=run.logs,
        source=run.evaluation.train,
        measure=functools.partial(measure, run),
        # A small share of an epoch is every step, not never.
        measure_every=math.ceil(config.validate_every_epochs * clock.steps_per_epoch),
        advice="Lower recipe.learning_rate, or set compute_dtype=float32, in a new --workdir.",
    )
    return loop.run(state, batches, interruption)


def measure(run: Run, state: FinetuneState) -> dict[str, float]:
    """{"val/top1", "val/top5"?, "val/loss"}, and "average/..." of the moving average if any."""
    metrics = {f"val/{name}": value for name, value in run.validate(state.params).items()}
    if state.average:
        average = run.validate(state.average)
        metrics |= {f"average/{name}": value for name, value in average.items()}
    return metrics


def validation(evaluation: Evaluation, finetuner: Finetuner) -> Callable[[Any], dict[str, float]]:
    """Function parameters -> metrics over all validation images, exact for any batch and devices.

    Logits are gathered on the host, so padding and the number of devices leave no trace.
    """

    recipe = finetuner.recipe
    large = min(height_and_width(evaluation.config.image_size)) > 224
    crop_ratio = recipe.crop_ratio_above_224 if large else CENTRE_CROP

    @jax.jit
    def logits(params, images):
        return finetuner.logits(params, from_levels(finetuner.encoder, images))

    def validate(params):
        batches = evaluation.batches(evaluation.val, recipe.interpolation, crop_ratio)
        found = extract_features(
            lambda images: logits(params, images), batches, by_row(evaluation.mesh)
        )
        evaluation.note_unreadable(evaluation.val, found)
        evaluation.check_classes(found.labels)
        return classification_metrics(found.features, found.labels)

    return validate


def classification_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracies and mean cross-entropy.

    Args:
      logits: float [n, C].
      labels: int [n]; images with a negative label do not count.

    Returns:
      {"top1", "loss"} and, with more than five classes, "top5".
    """
    logits, labels = np.asarray(logits[labels >= 0], np.float64), labels[labels >= 0]
    own = logits[np.arange(len(labels)), labels]
    # Equal logits are no success: only strictly smaller ones lie behind.
    rank = np.sum(logits >= own[:, None], axis=1)
    largest = logits.max(axis=1, keepdims=True)
    normaliser = np.log(np.exp(logits - largest).sum(axis=1)) + largest[:, 0]
    metrics = {"top1": float(np.mean(rank <= 1)), "loss": float(np.mean(normaliser - own))}
    if logits.shape[1] > 5:
        metrics["top5"] = float(np.mean(rank <= 5))
    return metrics


def results(run: Run, metrics: Mapping[str, float]) -> dict[str, Any]:
    """This task's part of results.json, from the metrics of the last step."""
    evaluation, recipe, clock = run.evaluation, run.finetuner.recipe, run.clock
    best = best_epochs(evaluation.folder.metrics_path, metrics, clock)
    value, best_value = metrics["val/top1"], best["val/top1"]["value"]
    return {
        "metric": "top1",
        "value": value,
        "protocol": f"finetune_{evaluation.config.protocol}",
        "formula": f"{described(recipe, published_recipe_of(evaluation))}; last epoch",
        "metrics": {
            "last": {key: metrics[key] for key in sorted(metrics) if key.startswith(_MEASURED)},
            "best": best,
            "epochs": clock.total_steps / clock.steps_per_epoch,
            "steps": clock.total_steps,
            "images_per_second": run.logs.images_per_second,
        },
        "wall_seconds": round(run.logs.wall_seconds, 2),
        "line": evaluation.line(
            f"fine-tuned top-1 {value:.2%} (recipe {evaluation.config.protocol}, last epoch; best "
            f"epoch {best_value:.2%})"
        ),
    }


def best_epochs(
    metrics_path: Path, last: Mapping[str, float], clock: Clock
) -> dict[str, dict[str, float]]:
    """{score: {"value", "epoch"}} of the earliest best validation of the run, for each score."""
    best, last = {}, {**last, "step": clock.total_steps}
    for score in _SCORES:
        row = best_row(metrics_path, score, last)
        if row:
            best[score] = {"value": row[score], "epoch": row["step"] / clock.steps_per_epoch}
    return best
