"""A linear probe from top to bottom: protocol, heads, training, metrics; resumes exactly."""

import contextlib
import dataclasses
import functools
import time
from typing import Any

import jax
import numpy as np

from repre_jax.data.pipeline import prefetch_to_device, training_batches
from repre_jax.errors import UserError
from repre_jax.evaluation.linear.probe import (
    LinearProbe,
    ProbeState,
    compiled_step,
    in_chunks,
    linear_metrics,
)
from repre_jax.evaluation.linear.protocols import LINEAR_PROTOCOLS, LinearProtocol
from repre_jax.evaluation.task import SHARED_FREE_TO_CHANGE, SHARED_RANGES, Evaluation, Task
from repre_jax.ranges import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE
from repre_jax.runs.loop import TrainingLoop, open_training, scalars
from repre_jax.schedules import Clock
from repre_jax.sharding import all_replicated, by_row


def measure_linear(evaluation: Evaluation) -> dict[str, Any]:
    """Linear probe by a paper's protocol; learning rates and seeds are heads of one training.

    Returns:
      This task's part of results.json.

    Raises:
      Stopped: it was asked to, and has saved.
      UserError: whatever the user can mend.
    """
    config = evaluation.config
    protocol = LINEAR_PROTOCOLS[config.protocol]
    own = evaluation.pretrained.defaults.feature
    if protocol.feature == "pooled" != own:  # LoMaR, say, trains nothing that is pooled
        protocol = dataclasses.replace(protocol, feature=own)
    batch_size = config.train_batch_size or protocol.batch_size
    probe = build_probe(evaluation, protocol, batch_size)
    feature = protocol.feature_of(probe.encoder)
    started = time.monotonic()
    found = evaluation.features_of(evaluation.val, feature, protocol.interpolation)
    features, labels = found.features, found.labels
    evaluation.check_classes(labels)
    seconds = time.monotonic() - started
    state, training_seconds = _train(evaluation, probe, batch_size, features, labels)
    metrics = linear_metrics(probe, np.asarray(state.hits) / _known(labels))
    last, best, rates = metrics["last"], metrics["best"], len(probe.learning_rates)
    formula = protocol.in_words(feature, batch_size, probe.epochs)
    formula += f"; last epoch, mean of {probe.seeds} head(s)"
    if rates > 1:
        formula += f"; best of {rates} learning rates on the validation set"
    return {
        "metric": "top1",
        "value": last["top1"],
        "spread": last.get("top1_std"),
        "protocol": f"linear_{config.protocol}",
        "formula": formula,
        "metrics": metrics,
        "wall_seconds": round(seconds + training_seconds, 2),
        "line": evaluation.line(
            f"linear top-1 {last['top1']:.2%} (protocol {config.protocol}, last epoch; best epoch "
            f"{best['top1']:.2%}; learning rate {metrics['learning_rate']:g})"
        ),
    }


TASK = Task(
    measure=measure_linear,
    ranges={
        **SHARED_RANGES,
        "rate_factors": POSITIVE,
        "seeds": AT_LEAST_ONE,
        "epochs": NOT_NEGATIVE,
        "train_batch_size": NOT_NEGATIVE,
        "save_every_epochs": NOT_NEGATIVE,
        "log_every_steps": NOT_NEGATIVE,
    },
    free_to_change=(*SHARED_FREE_TO_CHANGE, "save_every_epochs", "log_every_steps"),
    protocols=tuple(LINEAR_PROTOCOLS),
    default_protocol=lambda pretrained: pretrained.defaults.linear,
)


def build_probe(evaluation: Evaluation, protocol: LinearProtocol, batch_size: int) -> LinearProbe:
    """The probe that the config describes.

    Raises:
      UserError: a batch that neither images nor devices can share.
    """
    config, images = evaluation.config, len(evaluation.train)
    if images < batch_size:
        raise UserError(
            f"Protocol {config.protocol} trains with batches of {batch_size} and there are "
            f"{images} images: set --config.train_batch_size; the learning rate scales with it."
        )
    evaluation.check_batch("train_batch_size", batch_size)
    if not config.rate_factors:
        raise UserError("rate_factors is empty: (1.0,) is the protocol's own learning rate.")
    steps = images // batch_size
    epochs = config.epochs or protocol.epochs
    if protocol.warmup_epochs > epochs:
        raise UserError(
            f"Protocol {config.protocol} warms up for {protocol.warmup_epochs:g} epochs and "
            f"epochs={epochs}: set --config.epochs to more."
        )
    peak = protocol.learning_rate * batch_size / 256
    return LinearProbe(
        encoder=evaluation.pretrained.encoder,
        protocol=protocol,
        clock=Clock(steps, steps * epochs),
        classes=evaluation.classes,
        learning_rates=tuple(peak * factor for factor in config.rate_factors),
        seeds=config.seeds,
        seed=config.seed,
    )


def _train(
    evaluation: Evaluation,
    probe: LinearProbe,
    batch_size: int,
    features: np.ndarray,
    labels: np.ndarray,
) -> tuple[ProbeState, float]:
    """(state after the last epoch, seconds that training has taken).

    Args:
      evaluation: config, images, devices, folder.
      probe: what is trained.
      batch_size: images of a step.
      features: float32 [n, F] of the validation images.
      labels: theirs, int [n], -1 for unknown.
    """
    config, mesh, clock = evaluation.config, evaluation.mesh, probe.clock
    with contextlib.ExitStack() as stack:
        opened = open_training(
            evaluation.folder,
            functools.partial(probe.init, features.shape[1]),
            shardings=all_replicated(mesh),
            total_steps=clock.total_steps,
            batch_size=batch_size,
            keep=2,
            best_metric=None,
        )
        state, checkpoints, logs, interruption = stack.enter_context(opened)
        batches = training_batches(
            evaluation.train,
            probe.protocol.views,
            image_size=config.image_size,
            batch_size=batch_size,
            seed=config.seed,
            start_step=int(state.step),
            total_steps=clock.total_steps,
            workers=config.data.workers,
        )
        batches = stack.enter_context(prefetch_to_device(batches, by_row(mesh)))
        step = compiled_step(probe, mesh)
        validation = in_chunks(features, labels, mesh)
        loop = TrainingLoop(
            step=lambda state, batch: step(evaluation.params, state, batch, validation),
            total_steps=clock.total_steps,
            log_every=config.log_every_steps,
            save_every=config.save_every_epochs * clock.steps_per_epoch,
            checkpoints=checkpoints,
            logs=logs,
            source=evaluation.train,
            to_host=functools.partial(_to_host, _known(labels)),
        )
        state, _ = loop.run(state, batches, interruption)
        return state, logs.wall_seconds


def _to_host(images: int, step: int, metrics: dict[str, jax.Array]) -> dict[str, float]:
    """Scalars of a step, hits among ``images`` as an accuracy."""
    metrics = scalars(step, metrics)
    return metrics | {"val/top1": metrics.pop("val/hits") / images}


def _known(labels: np.ndarray) -> int:
    """How many labels are not -1."""
    return int(np.sum(np.asarray(labels) >= 0))
