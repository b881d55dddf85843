"""SETR from top to bottom: encoder under a head, crops, loop, windows, scores; resumes exactly.

The validation images choose nothing: a run's mean IoU is that of its last step, and the best
validation stands beside it.
"""

import contextlib
import functools
from typing import Any

from repre_jax.data.batches import read_or_next
from repre_jax.data.device.prefetch import DevicePrefetcher
from repre_jax.data.pipeline import prefetch_to_device
from repre_jax.errors import UserError
from repre_jax.evaluation.finetune.step import finetuned_encoder
from repre_jax.evaluation.segmentation.setr.crops import CropRecipe, crop_batches
from repre_jax.evaluation.segmentation.setr.step import (
    MOMENTUM,
    NORMALISATIONS,
    OPTIMIZERS,
    POWER,
    WEIGHT_DECAY,
    Segmenter,
    train_step,
)
from repre_jax.evaluation.segmentation.setr.validation import validation
from repre_jax.evaluation.segmentation.views import (
    check_one_process,
    open_colour_pairs,
)
from repre_jax.evaluation.task import (
    ENCODER_FREE_TO_CHANGE,
    ENCODER_RANGES,
    LABEL_RANGES,
    Evaluation,
    Task,
)
from repre_jax.image_size import check_image_size, height_and_width, size_in_words
from repre_jax.models.setr import VARIANTS, SETRHead, setr_blocks
from repre_jax.models.taps import block_numbers
from repre_jax.ranges import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE, SHARE, SHARE_BELOW_ONE
from repre_jax.rematerialisation import level_of
from repre_jax.runs.destinations import best_row
from repre_jax.runs.loop import TrainingLoop, open_training
from repre_jax.sharding import all_replicated, by_row, jitted, replicated

# (of the encoder, at the end): configs/SETR/*_cityscapes_bs_8.py; local_configs/segformer.
_SGD_RATES = {"naive": (0.01, 1e-4), "pup": (0.01, 1e-4), "mla": (0.002, 1e-4)}
_ADAMW_RATES = (6e-5, 0.0)
_OPTIMIZER_NAMES = {
    "sgd": f"SGD, momentum {MOMENTUM:g}",
    "adamw": f"AdamW, decay {WEIGHT_DECAY:g}",
}
_SCORE = "val/mean_iou"


def measure_setr(evaluation: Evaluation) -> dict[str, Any]:
    """Mean IoU of the validation images by the whole network, trained as SETR.

    Raises:
      Stopped: it was asked to, and has saved.
      UserError: whatever the user can mend.
    """
    check_one_process()
    config = evaluation.config
    segmenter, params = build(evaluation)
    # What is wrong with validation images shows before the training.
    read_or_next(evaluation.val, 0, evaluation.val.read_pair)
    with contextlib.ExitStack() as stack:
        opened = open_training(
            evaluation.folder,
            segmenter.init,
            params,
            shardings=all_replicated(evaluation.mesh),
            total_steps=config.steps,
            batch_size=config.train_batch_size,
            keep=config.keep_checkpoints,
            best_metric=_SCORE,
        )
        state, checkpoints, logs, interruption = stack.enter_context(opened)
        validate = validation(evaluation, segmenter, recipe_of(config).base)
        latest: dict[int, dict[str, Any]] = {}

        def measure(state):
            step = int(state.step)
            latest[step] = validate(state, config.pictures if step == config.steps else 0)
            return _flat(latest[step])

        batches = stack.enter_context(open_batches(evaluation, int(state.step)))
        same = replicated(evaluation.mesh)
        loop = TrainingLoop(
            step=jitted(
                functools.partial(train_step, segmenter),
                evaluation.mesh,
                donate_argnums=0,
                in_shardings=(same, by_row(evaluation.mesh)),
                out_shardings=same,
            ),
            total_steps=config.steps,
            log_every=config.log_every_steps,
            save_every=config.save_every_steps,
            checkpoints=checkpoints,
            logs=logs,
            source=evaluation.train,
            measure=measure,
            measure_every=config.validate_every_steps,
            advice="Lower learning_rate, or set compute_dtype=float32, in a new --workdir.",
        )
        state, _ = loop.run(state, batches, interruption)
        # A finished training whose process ended before this line has been measured elsewhere.
        found = {"last": latest.get(config.steps) or validate(state, config.pictures)}
        if tuple(config.scales) != (1.0,) or config.flip:
            found["multi_scale"] = validate(state, 0, tuple(config.scales), config.flip)
        return _results(evaluation, segmenter, found, logs.wall_seconds)


TASK = Task(
    measure=measure_setr,
    ranges={
        **ENCODER_RANGES,
        **LABEL_RANGES,
        "auxiliary_weight": NOT_NEGATIVE,
        "drop_path": SHARE_BELOW_ONE,
        "steps": AT_LEAST_ONE,
        "train_batch_size": AT_LEAST_ONE,
        "learning_rate": POSITIVE,
        "head_rate": POSITIVE,
        "end_learning_rate": NOT_NEGATIVE,
        "base_size": AT_LEAST_ONE,
        "scale": POSITIVE,
        "max_share": SHARE,
        "stride": AT_LEAST_ONE,
        "scales": POSITIVE,
        "validate_every_steps": NOT_NEGATIVE,
        "pictures": NOT_NEGATIVE,
        "save_every_steps": NOT_NEGATIVE,
        "keep_checkpoints": AT_LEAST_ONE,
        "log_every_steps": NOT_NEGATIVE,
        "workers": NOT_NEGATIVE,
    },
    free_to_change=(
        *ENCODER_FREE_TO_CHANGE,
        "data.path",
        "remat",
        "workers",
        "pictures",
        "save_every_steps",
        "keep_checkpoints",
        "log_every_steps",
    ),
    open=open_colour_pairs,
    own_data=True,
    less_memory="Set remat=block, more devices or a smaller train_batch_size; where validation "
    "takes too much, a smaller batch_size.",
)


def build(evaluation: Evaluation) -> tuple[Segmenter, Any]:
    """(static parts, the encoder's parameters at step 0) that the config describes.

    Raises:
      UserError: keys that do not fit together, or a batch that images or devices cannot share.
    """
    config, encoder = evaluation.config, evaluation.pretrained.encoder
    _check(evaluation)
    crop = height_and_width(config.image_size)
    blocks, auxiliary = setr_blocks(config.head, len(encoder.block_strides))
    if config.blocks:
        blocks = block_numbers(encoder, config.blocks, "blocks")
    if config.auxiliary_blocks:
        auxiliary = block_numbers(encoder, config.auxiliary_blocks, "auxiliary_blocks")
    if config.head != "mla" and len(blocks) != 1:
        raise UserError(f"head={config.head} reads one block, not blocks={tuple(config.blocks)}.")
    if config.head == "mla" and config.auxiliary_blocks:
        raise UserError("auxiliary_blocks is given, and those of head=mla read its own maps.")
    if not config.auxiliary_weight:
        if config.auxiliary_blocks:
            raise UserError("auxiliary_blocks is given, and auxiliary_weight=0 has no such head.")
        auxiliary = ()
    encoder, params = finetuned_encoder(
        encoder,
        evaluation.pretrained.load_params(),
        image_size=crop,
        drop_path=config.drop_path,
        remat=level_of(config.remat, "remat"),
    )
    rates = _ADAMW_RATES if config.optimizer == "adamw" else _SGD_RATES[config.head]
    given = (config.learning_rate, config.end_learning_rate)
    start, end = (usual if own is None else own for own, usual in zip(given, rates, strict=True))
    segmenter = Segmenter(
        encoder=encoder,
        head=SETRHead(
            variant=config.head,
            blocks=blocks,
            auxiliary=auxiliary,
            classes=len(evaluation.train.class_names),
            dtype=encoder.dtype,
        ),
        crop=crop,
        optimizer=config.optimizer,
        learning_rate=start,
        head_rate=config.head_rate,
        end_learning_rate=end,
        total_steps=config.steps,
        auxiliary_weight=config.auxiliary_weight,
        loss_over=config.loss_over,
        frozen=config.frozen,
        photometric=config.photometric,
        seed=config.seed,
    )
    return segmenter, params


def open_batches(evaluation: Evaluation, start_step: int) -> DevicePrefetcher:
    """The training crops from ``start_step`` on, on the devices."""
    config = evaluation.config
    batches = crop_batches(
        evaluation.train,
        recipe_of(config),
        batch_size=config.train_batch_size,
        steps=config.steps,
        start_step=start_step,
        seed=config.seed,
        workers=config.workers,
    )
    return prefetch_to_device(batches, by_row(evaluation.mesh))


def recipe_of(config: Any) -> CropRecipe:
    """How training crops are made."""
    base = tuple(sorted(config.base_size)) if config.base_size else None
    crop = height_and_width(config.image_size)
    return CropRecipe(crop, tuple(config.scale), base, config.max_share)


def _check(evaluation: Evaluation) -> None:
    config = evaluation.config
    known_values = {"head": VARIANTS, "optimizer": OPTIMIZERS, "loss_over": NORMALISATIONS}
    for key, known in known_values.items():
        if config[key] not in known:
            raise UserError(f"{key}={config[key]!r} must be one of {', '.join(known)}.")
    check_image_size(config.stride, "stride")
    if len(config.scale) != 2:
        raise UserError(f"scale={tuple(config.scale)} must be two numbers.")
    if len(config.base_size) not in (0, 2):
        raise UserError(f"base_size={tuple(config.base_size)} must be two numbers, or ().")
    if config.scale[0] > config.scale[1]:
        raise UserError(f"scale={tuple(config.scale)} must be the lowest, then the highest.")
    if not config.scales:
        raise UserError("scales is empty: (1.0,) is the images as they are.")
    if config.frozen and config.drop_path:
        raise UserError(
            f"drop_path={config.drop_path} and frozen=True: a frozen encoder is seen as it is. "
            "Leave one of them out."
        )
    strides, crops = height_and_width(config.stride), height_and_width(config.image_size)
    if any(stride > crop for stride, crop in zip(strides, crops, strict=True)):
        raise UserError(
            f"stride={size_in_words(config.stride)} leaves gaps between windows of "
            f"{size_in_words(config.image_size)}: lower it."
        )
    if len(set(evaluation.pretrained.encoder.block_strides)) > 1:
        raise UserError(
            "SETR's heads read maps of one size; those of "
            f"{evaluation.pretrained.config.model.name} differ: take a ViT."
        )
    evaluation.check_batch("train_batch_size", config.train_batch_size)


def _flat(found: dict[str, Any]) -> dict[str, float]:
    """The metrics of a validation for the logs."""
    return {f"val/{name}": found[name] for name in ("mean_iou", "mean_accuracy", "accuracy")}


def _results(
    evaluation: Evaluation, segmenter: Segmenter, found: dict[str, Any], seconds: float
) -> dict[str, Any]:
    config, value = evaluation.config, found["last"]["mean_iou"]
    last = {_SCORE: value, "step": config.steps}
    best = best_row(evaluation.folder.metrics_path, _SCORE, last)
    trained = "frozen" if segmenter.frozen else "trained"
    height, width = segmenter.crop
    return {
        "metric": "mean_iou",
        "value": value,
        "protocol": f"setr_{config.head}",
        "formula": (
            "mean over classes of TP / (TP + FP + FN) over the pixels of the validation images; "
            f"SETR ({config.head}) on blocks {segmenter.head.blocks}, encoder {trained}; "
            f"{_OPTIMIZER_NAMES[segmenter.optimizer]}, poly {POWER:g}, learning rate "
            f"{segmenter.learning_rate:g} (head x {segmenter.head_rate:g}), {config.steps:,} steps "
            f"of {config.train_batch_size} crops of {height} x {width}, loss over "
            f"{config.loss_over} pixels; windows every {size_in_words(config.stride)}, single "
            "scale; last step; source: fudan-zvg/SETR"
        ),
        "metrics": found
        | {"best": {"mean_iou": best[_SCORE], "step": best["step"]}, "steps": config.steps},
        "wall_seconds": round(seconds, 2),
        "line": evaluation.line(
            f"SETR ({config.head}) mean IoU {value:.2%} (last step; best {best[_SCORE]:.2%})"
        ),
    }
