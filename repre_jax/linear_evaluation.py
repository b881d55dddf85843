"""A linear probe from top to bottom: protocol, heads, training, numbers; resumes exactly."""

import contextlib
import functools
from typing import Any

import numpy as np

from repre_jax.checkpoints import Checkpoints
from repre_jax.data.pipeline import prefetch_to_device, training_batches
from repre_jax.errors import UserError
from repre_jax.evaluation.linear_probe import (
    LinearProbe,
    ProbeState,
    in_chunks,
    linear_numbers,
    train_heads,
)
from repre_jax.evaluation.protocols import LINEAR_PROTOCOLS, LinearProtocol
from repre_jax.measures import Evaluation
from repre_jax.schedules import Clock
from repre_jax.sharding import by_row, replicated


def measure_linear(evaluation: Evaluation) -> dict[str, Any]:
    """Linear probe by a paper's protocol; learning rates and seeds are heads of one training."""
    config = evaluation.config
    protocol = LINEAR_PROTOCOLS[config.protocol]
    batch_size = config.train_batch_size or protocol.batch_size
    probe = build_probe(evaluation, protocol, batch_size)
    feature = protocol.feature_of(probe.encoder)
    features, labels = evaluation.features_of(evaluation.val, feature, protocol.interpolation)
    state = _train(evaluation, probe, batch_size, features, labels)
    numbers = linear_numbers(probe, np.asarray(state.hits) / np.sum(np.asarray(labels) >= 0))
    last, best, rates = numbers["last"], numbers["best"], len(probe.learning_rates)
    formula = protocol.in_words(feature, batch_size, probe.epochs)
    formula += f"; last epoch, mean of {probe.seeds} head(s)"
    if rates > 1:
        formula += f"; best of {rates} learning rates on the validation set"
    return {
        "metric": "top1",
        "value": last["top1"],
        "spread": last["top1_std"],
        "protocol": f"linear_{config.protocol}",
        "formula": formula,
        "numbers": numbers,
        "line": evaluation.line(
            f"linear top-1 {last['top1']:.2%} (protocol {config.protocol}, last epoch; best epoch "
            f"{best['top1']:.2%}; learning rate {numbers['learning_rate']:g})"
        ),
    }


def build_probe(evaluation: Evaluation, protocol: LinearProtocol, batch_size: int) -> LinearProbe:
    """The probe that the config describes.

    Raises:
      UserError: a batch that neither images nor devices can share.
    """
    config, images, devices = evaluation.config, len(evaluation.train), evaluation.mesh.size
    if batch_size % devices:
        raise UserError(f"train_batch_size={batch_size} cannot be split over {devices} devices.")
    if images < batch_size:
        raise UserError(
            f"Protocol {config.protocol} trains with batches of {batch_size} and there are "
            f"{images} images: set --config.train_batch_size; the learning rate scales with it."
        )
    if config.seeds < 1 or not config.rate_factors:
        raise UserError("seeds must be at least 1, and rate_factors must not be empty.")
    steps = images // batch_size
    peak = protocol.learning_rate * batch_size / 256
    return LinearProbe(
        encoder=evaluation.pretrained.encoder,
        normalised=evaluation.pretrained.config.model.normalise,
        protocol=protocol,
        clock=Clock(steps, steps * (config.epochs or protocol.epochs)),
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
) -> ProbeState:
    """The state after the last epoch, from the newest checkpoint or from the start."""
    config, mesh = evaluation.config, evaluation.mesh
    init = functools.partial(probe.init, features.shape[1])
    with contextlib.ExitStack() as stack:
        checkpoints = Checkpoints(evaluation.folder.checkpoints, keep=2, best_metric=None)
        stack.callback(checkpoints.close)
        state, messages = checkpoints.restore_or_init(init, replicated(mesh))
        print(*messages, sep="\n", end="\n" * bool(messages))
        batches = training_batches(
            evaluation.train,
            probe.protocol.views,
            image_size=config.image_size,
            batch_size=batch_size,
            seed=config.seed,
            start_step=int(state.step),
            total_steps=probe.clock.total_steps,
            workers=config.data.workers,
        )
        batches = stack.enter_context(prefetch_to_device(batches, by_row(mesh)))

        def save(state: ProbeState) -> None:
            if int(state.step) // probe.clock.steps_per_epoch % config.save_every_epochs == 0:
                checkpoints.save(state)

        validation = in_chunks(features, labels, mesh)
        return train_heads(probe, evaluation.params, state, batches, validation, mesh, save)
