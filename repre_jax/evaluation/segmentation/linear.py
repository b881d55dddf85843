"""Linear segmentation from top to bottom: heads, training, scores; resumes exactly."""

import contextlib
import functools
from typing import Any

import jax
import numpy as np

from repre_jax.data.batches import read_or_next
from repre_jax.data.pipeline import prefetch_to_device
from repre_jax.errors import UserError
from repre_jax.evaluation.segmentation.confusion import scores
from repre_jax.evaluation.segmentation.maps import chosen_blocks, names_of, reported_of
from repre_jax.evaluation.segmentation.pictures import save_comparisons
from repre_jax.evaluation.segmentation.probe import ProbeState, SegmentationProbe
from repre_jax.evaluation.segmentation.views import (
    check_one_process,
    note_unread,
    open_colour_pairs,
    training_order,
    whole_batches,
)
from repre_jax.evaluation.task import (
    ENCODER_FREE_TO_CHANGE,
    ENCODER_RANGES,
    LABEL_RANGES,
    Evaluation,
    Task,
)
from repre_jax.image_size import height_and_width
from repre_jax.ranges import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE
from repre_jax.runs.loop import TrainingLoop, open_training
from repre_jax.schedules import Clock
from repre_jax.sharding import all_replicated, by_row, jitted, replicated


def measure_linear_segmentation(evaluation: Evaluation) -> dict[str, Any]:
    """Mean IoU of the validation images by linear heads, the best of several learning rates.

    Raises:
      Stopped: it was asked to, and has saved.
      UserError: whatever the user can mend.
    """
    check_one_process()
    config = evaluation.config
    probe = build_probe(evaluation)
    # What is wrong with validation images shows before the training.
    read_or_next(evaluation.val, 0, evaluation.val.read_pair)
    state, seconds = _train(evaluation, probe)
    confusions = _validate(evaluation, probe, state)
    class_names = evaluation.val.class_names
    found = {name: summary(probe, confusions[name], class_names) for name in probe.names}
    reported = reported_of(probe.names)
    best = found[reported]
    if config.pictures:
        rate = list(probe.learning_rates).index(best["learning_rate"])
        _draw(evaluation, probe, state, reported, rate * probe.seeds)
    height, width = height_and_width(config.image_size)
    return {
        "metric": "mean_iou",
        "value": best["mean_iou"],
        "spread": best.get("mean_iou_std"),
        "protocol": "linear_segmentation",
        "formula": (
            "mean over classes of TP / (TP + FP + FN) over the pixels of the validation images at "
            f"{height} x {width}; BatchNorm without affine and a linear layer on the patches of "
            f"block {reported}, resized bilinearly; cross-entropy, void left out; SGD, momentum "
            f"0.9, cosine, batch {config.train_batch_size}, {config.epochs} epochs of whole images "
            f"and flips; last epoch, mean of {probe.seeds} head(s); best of "
            f"{len(probe.learning_rates)} learning rates on the validation set"
        ),
        "metrics": {"blocks": found, "epochs": config.epochs},
        "wall_seconds": round(seconds, 2),
        "line": evaluation.line(
            f"linear segmentation mean IoU {best['mean_iou']:.2%} (block {reported}, learning rate "
            f"{best['learning_rate']:g})"
        ),
    }


TASK = Task(
    measure=measure_linear_segmentation,
    ranges={
        **ENCODER_RANGES,
        **LABEL_RANGES,
        "learning_rates": POSITIVE,
        "seeds": AT_LEAST_ONE,
        "epochs": AT_LEAST_ONE,
        "train_batch_size": AT_LEAST_ONE,
        "save_every_epochs": NOT_NEGATIVE,
        "log_every_steps": NOT_NEGATIVE,
        "pictures": NOT_NEGATIVE,
        "workers": NOT_NEGATIVE,
    },
    free_to_change=(
        *ENCODER_FREE_TO_CHANGE,
        "data.path",
        "workers",
        "pictures",
        "save_every_epochs",
        "log_every_steps",
    ),
    open=open_colour_pairs,
    own_data=True,
)


def build_probe(evaluation: Evaluation) -> SegmentationProbe:
    """The probe that the config describes.

    Raises:
      UserError: a batch that neither images nor devices can share, or no learning rate.
    """
    config, images = evaluation.config, len(evaluation.train)
    evaluation.check_batch("train_batch_size", config.train_batch_size)
    if not config.learning_rates:
        raise UserError("learning_rates is empty: name one at least.")
    blocks = chosen_blocks(evaluation.pretrained.encoder, config.blocks)
    steps = images // config.train_batch_size
    return SegmentationProbe(
        encoder=evaluation.pretrained.encoder,
        blocks=blocks,
        names=names_of(blocks, config.fuse and len(blocks) > 1),
        clock=Clock(steps, steps * config.epochs),
        classes=len(evaluation.train.class_names),
        learning_rates=tuple(map(float, config.learning_rates)),
        seeds=config.seeds,
        seed=config.seed,
    )


def summary(
    probe: SegmentationProbe, confusions: np.ndarray, class_names: tuple[str, ...]
) -> dict[str, Any]:
    """Scores of the learning rate whose heads are best on average, and every rate's mean IoU.

    Args:
      probe: which heads there are.
      confusions: int64 [H, C, C + 1].
      class_names: of the C.
    """
    by_head = [scores(matrix, class_names) for matrix in confusions]
    ious = np.array([found["mean_iou"] for found in by_head])
    ious = ious.reshape(len(probe.learning_rates), probe.seeds)
    chosen = int(np.argmax(ious.mean(axis=1)))
    heads = by_head[chosen * probe.seeds : (chosen + 1) * probe.seeds]
    metrics = {
        name: float(np.mean([head[name] for head in heads]))
        for name in ("mean_iou", "mean_accuracy", "accuracy")
    }
    if probe.seeds > 1:
        metrics["mean_iou_std"] = float(ious[chosen].std(ddof=1))
    return {
        "learning_rate": probe.learning_rates[chosen],
        **metrics,
        "iou": heads[0]["iou"],
        "by_learning_rate": [
            {"learning_rate": float(rate), "mean_iou": float(iou)}
            for rate, iou in zip(probe.learning_rates, ious.mean(axis=1), strict=True)
        ],
    }


def _train(evaluation: Evaluation, probe: SegmentationProbe) -> tuple[ProbeState, float]:
    """(state after the last step, seconds that training has taken)."""
    config, mesh, clock = evaluation.config, evaluation.mesh, probe.clock
    size, batch = height_and_width(config.image_size), config.train_batch_size
    image = jax.ShapeDtypeStruct((1, *size, 3), np.uint8)
    shapes = jax.eval_shape(probe.features, evaluation.params, image)
    widths = tuple(x.shape[-1] for x in shapes)
    with contextlib.ExitStack() as stack:
        opened = open_training(
            evaluation.folder,
            functools.partial(probe.init, widths),
            shardings=all_replicated(mesh),
            total_steps=clock.total_steps,
            batch_size=batch,
            keep=2,
            best_metric=None,
        )
        state, checkpoints, logs, interruption = stack.enter_context(opened)
        order = training_order(
            len(evaluation.train), batch_size=batch, steps=clock.total_steps, seed=config.seed
        )
        batches = whole_batches(
            evaluation.train,
            image_size=size,
            batch_size=batch,
            workers=config.workers,
            order=order,
            start_step=int(state.step),
        )
        batches = stack.enter_context(prefetch_to_device(batches, by_row(mesh)))
        same = replicated(mesh)
        step = jitted(
            probe.train_step,
            mesh,
            donate_argnums=1,
            in_shardings=(same, same, by_row(mesh)),
            out_shardings=same,
        )
        loop = TrainingLoop(
            step=lambda state, batch: step(evaluation.params, state, batch),
            total_steps=clock.total_steps,
            log_every=config.log_every_steps,
            save_every=config.save_every_epochs * clock.steps_per_epoch,
            checkpoints=checkpoints,
            logs=logs,
            source=evaluation.train,
        )
        state, _ = loop.run(state, batches, interruption)
        return state, logs.wall_seconds


def _draw(
    evaluation: Evaluation, probe: SegmentationProbe, state: ProbeState, name: str, head: int
) -> None:
    """Draws the first validation images by a head of the features of a name."""
    config, source = evaluation.config, evaluation.val
    predict = jax.jit(functools.partial(probe.predictions, name=name, head=head))
    drawn = 0
    batches = whole_batches(
        source,
        image_size=config.image_size,
        batch_size=min(config.pictures, config.batch_size),
        workers=0,
    )
    with batches:
        for batch in batches:
            rows = batch["mask"]
            given = predict(evaluation.params, state, batch["image"])
            drawn = save_comparisons(
                evaluation.folder.path,
                batch["image"][rows],
                batch["label"][rows],
                np.asarray(given)[rows],
                source.colours,
                first=drawn,
                most=config.pictures,
            )
            if drawn == config.pictures:
                return


def _validate(
    evaluation: Evaluation, probe: SegmentationProbe, state: ProbeState
) -> dict[str, np.ndarray]:
    """Confusion matrices int64 [H, C, C + 1] of all validation images, by name."""
    config, mesh = evaluation.config, evaluation.mesh
    count = jitted(probe.confusions, mesh, out_shardings=replicated(mesh))
    heads = (len(probe.rates), probe.classes, probe.classes + 1)
    totals = {name: np.zeros(heads, np.int64) for name in probe.names}
    read = []
    batches = whole_batches(
        evaluation.val,
        image_size=config.image_size,
        batch_size=evaluation.batch_size,
        workers=config.workers,
    )
    with batches:
        for batch in batches:
            read.append(batch["index"][batch["mask"]])
            arrays = {key: batch[key] for key in ("image", "label")}
            arrays = jax.device_put(arrays, by_row(mesh))
            for name, found in count(evaluation.params, state, arrays).items():
                totals[name] += np.asarray(found)
    note_unread(evaluation, evaluation.val, np.concatenate(read))
    return totals
