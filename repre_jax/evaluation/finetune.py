"""One fine-tuning run from top to bottom: encoder, state, loop, validation, numbers.

The checkpoint's encoder is trained with a classifier on it; it goes on where it was stopped, bit
for bit, as pre-training does. The validation set never chooses anything: the number of a run is
that of its last step, and the best epoch, which the official codes print, stands beside it.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from repre_jax.checkpoints import Checkpoints
from repre_jax.data.device_prefetch import DevicePrefetcher
from repre_jax.data.pipeline import prefetch_to_device, training_batches
from repre_jax.data.source import Source
from repre_jax.errors import UserError
from repre_jax.evaluation.features import extract_features
from repre_jax.evaluation.finetune_recipes import FinetuneRecipe, views_of
from repre_jax.evaluation.finetune_step import (
    Finetuner,
    FinetuneState,
    build_finetuner,
    finetune_step,
    finetuned_encoder,
    initial_state,
)
from repre_jax.interruption import on_sigterm
from repre_jax.run_folder import RunFolder
from repre_jax.run_logs import RunLogs, read_rows
from repre_jax.schedules import Clock
from repre_jax.sharding import by_row, replicated

_MEASURED = ("val/", "average/")
_MAX_NONFINITE_STEPS = 10  # in a row, then the run stops
_SCORES = ("val/top1", "average/top1")


@dataclasses.dataclass(frozen=True)
class Task:
    """What is fine-tuned, on what, where.

    Attributes:
      config: of ``configs/eval/finetune.py``, complete.
      recipe: the numbers.
      encoder: pre-trained, or not.
      encoder_params: its parameters, arrays on the host.
      normalised: whether it takes pixels less ImageNet's mean, over its deviation.
      train: labelled images.
      classes: their number.
      val_batches: makes the batches of all validation images, in order, padding masked.
      mesh: the devices.
      folder: of this run.
    """

    config: ConfigDict
    recipe: FinetuneRecipe
    encoder: nn.Module
    encoder_params: Any
    normalised: bool
    train: Source
    classes: int
    val_batches: Callable[[], Iterable[Mapping[str, np.ndarray]]]
    mesh: Mesh
    folder: RunFolder

    @property
    def clock(self) -> Clock:
        """Steps of an epoch (the last, partial batch is dropped) and of the run."""
        steps_per_epoch = len(self.train) // self.recipe.batch_size
        return Clock(steps_per_epoch, max(1, round(self.recipe.epochs * steps_per_epoch)))


@dataclasses.dataclass(frozen=True)
class Run:
    """A task under way, apart from its state."""

    task: Task
    finetuner: Finetuner
    validate: Callable[[Any], dict[str, float]]  # parameters -> top1, top5, loss
    checkpoints: Checkpoints
    logs: RunLogs


def finetune(task: Task) -> dict[str, Any] | None:
    """Fine-tunes, or goes on with it.

    Returns:
      {"last": numbers at the end, "best": {score: (value, epoch)}, "epochs", "steps",
      "wall_seconds", "images_per_second"}; None when it was told to stop, which saves.

    Raises:
      UserError: whatever the user can mend.
    """
    recipe, clock = task.recipe, task.clock
    check_batch(task)
    encoder, params = finetuned_encoder(
        task.encoder,
        task.encoder_params,
        image_size=task.config.image_size,
        drop_path=recipe.drop_path,
    )
    finetuner = build_finetuner(
        encoder,
        recipe,
        params,
        classes=task.classes,
        clock=clock,
        normalised=task.normalised,
        seed=task.config.seed,
    )
    with contextlib.ExitStack() as stack:
        checkpoints = Checkpoints(
            task.folder.checkpoints, keep=task.config.keep_checkpoints, best_metric=_SCORES[0]
        )
        stack.callback(checkpoints.close)
        state, messages = checkpoints.restore_or_init(
            functools.partial(initial_state, finetuner), replicated(task.mesh), params
        )
        logs = RunLogs(
            task.folder,
            start_step=int(state.step),
            total_steps=clock.total_steps,
            batch_size=recipe.batch_size,
            primary=jax.process_index() == 0,
        )
        stack.callback(logs.close)
        for message in messages:
            logs.say(message)
        run = Run(task, finetuner, validation(task, finetuner), checkpoints, logs)
        stop_requested = stack.enter_context(on_sigterm())
        batches = stack.enter_context(open_batches(task, int(state.step)))
        state, numbers = train(run, state, batches, stop_requested)
        if int(state.step) < clock.total_steps:
            logs.say(f"Stopped and saved at step {int(state.step):,}; the same command goes on.")
            return None
        if _SCORES[0] not in numbers:  # told to stop in the last step
            numbers |= measure(run, state)
        return {
            "last": {key: numbers[key] for key in sorted(numbers) if key.startswith(_MEASURED)},
            "best": best_epochs(task.folder.metrics_path, numbers, clock),
            "epochs": clock.total_steps / clock.steps_per_epoch,
            "steps": clock.total_steps,
            "wall_seconds": round(logs.wall_seconds, 2),
            "images_per_second": logs.images_per_second,
        }


def check_batch(task: Task) -> None:
    """Raises UserError for a batch that the devices cannot share or the images not fill."""
    size, devices = task.recipe.batch_size, task.mesh.size
    if size % devices:
        raise UserError(
            f"recipe.batch_size={size} cannot be split over {devices} devices; choose a multiple."
        )
    if len(task.train) < size:
        raise UserError(
            f"{task.train.description} has {len(task.train)} images, fewer than "
            f"recipe.batch_size={size}; lower it."
        )
    if (task.train.labels < 0).any():
        raise UserError(f"{task.train.description} has images without a label.")


def open_batches(task: Task, start_step: int) -> DevicePrefetcher:
    """The training batches from ``start_step`` on, on the devices."""
    batches = training_batches(
        task.train,
        views_of(task.recipe),
        image_size=task.config.image_size,
        batch_size=task.recipe.batch_size,
        seed=task.config.seed,
        start_step=start_step,
        total_steps=task.clock.total_steps,
        workers=task.config.data.workers,
    )
    return prefetch_to_device(batches, by_row(task.mesh))


def train(
    run: Run, state: FinetuneState, batches: DevicePrefetcher, stop_requested: Callable[[], bool]
) -> tuple[FinetuneState, dict[str, float]]:
    """Steps until the end or until asked to stop; either way the state is saved.

    Returns:
      (state, numbers of the last step).
    """
    config, clock, logs = run.task.config, run.task.clock, run.logs
    step_function = jax.jit(functools.partial(finetune_step, run.finetuner), donate_argnums=0)
    validate_every = max(1, round(config.validate_every_epochs * clock.steps_per_epoch))
    previous, numbers = None, logs.numbers_before
    for step in range(int(state.step) + 1, clock.total_steps + 1):
        batch = next(batches)
        replaced = batch.pop("replaced")
        for index in replaced[replaced >= 0]:
            logs.bad_file(run.task.train.name_of(int(index)))
        state, metrics = step_function(state, batch)
        if previous is not None:
            # Waiting for the step before keeps the device one step ahead of the host, no more.
            check_finite(step - 1, previous)
        previous = metrics["nonfinite_in_a_row"]

        last = step == clock.total_steps
        stop = stop_requested() or run.checkpoints.preempted(step)
        validate_now = (last or step % validate_every == 0) and not stop
        if last or stop or validate_now or step % config.log_every_steps == 0:
            numbers = {name: float(value) for name, value in jax.device_get(metrics).items()}
            if validate_now:
                with logs.paused():
                    numbers |= measure(run, state)
            logs.log(step, numbers, waited_seconds=batches.waited_seconds)
        if last or stop or validate_now or step % config.save_every_steps == 0:
            run.checkpoints.save(state, numbers if validate_now else None)
        if stop:
            break
    if previous is not None:
        check_finite(int(state.step), previous)
    run.checkpoints.wait()
    return state, numbers


def check_finite(step: int, nonfinite_in_a_row: jax.Array) -> None:
    """Raises UserError when too many steps in a row had to be skipped."""
    count = int(nonfinite_in_a_row)
    if count >= _MAX_NONFINITE_STEPS:
        raise UserError(
            f"Loss or gradient was not finite {count} steps in a row, up to step {step:,}; those "
            "steps were skipped. Lower recipe.learning_rate, or set compute_dtype=float32, in a "
            "new --workdir."
        )


def measure(run: Run, state: FinetuneState) -> dict[str, float]:
    """{"val/top1", "val/top5"?, "val/loss"}, and "average/..." of the moving average if any."""
    numbers = {f"val/{name}": value for name, value in run.validate(state.params).items()}
    if state.average:
        average = run.validate(state.average)
        numbers |= {f"average/{name}": value for name, value in average.items()}
    return numbers


def validation(task: Task, finetuner: Finetuner) -> Callable[[Any], dict[str, float]]:
    """Function parameters -> numbers over all validation images, exact for any batch and devices.

    Logits are gathered on the host, so padding and the number of devices leave no trace.
    """

    @jax.jit
    def logits(params, images):
        pixels = images.astype(jnp.float32) / 255
        return finetuner.logits(params, finetuner.encoder_input(pixels))

    def validate(params):
        found, labels = extract_features(
            lambda images: logits(params, images), task.val_batches(), by_row(task.mesh)
        )
        return classification_numbers(found, labels)

    return validate


def classification_numbers(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
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
    numbers = {"top1": float(np.mean(rank <= 1)), "loss": float(np.mean(normaliser - own))}
    if logits.shape[1] > 5:
        numbers["top5"] = float(np.mean(rank <= 5))
    return numbers


def best_epochs(
    metrics_path: Path, last: Mapping[str, float], clock: Clock
) -> dict[str, dict[str, float]]:
    """{score: {"value", "epoch"}} of the earliest best validation of the run, for each score."""
    rows = [*read_rows(metrics_path), {**last, "step": clock.total_steps}]
    best = {}
    for score in _SCORES:
        scored = [row for row in rows if row.get(score) is not None]
        if scored:
            row = max(scored, key=lambda row: row[score])
            best[score] = {"value": row[score], "epoch": row["step"] / clock.steps_per_epoch}
    return best
