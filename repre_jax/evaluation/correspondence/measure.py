"""Label propagation from top to bottom: clips, features, labels carried on, scores."""

from typing import Any

import jax
from ml_collections import ConfigDict

from repre_jax.data.host.crops import resize
from repre_jax.data.segmentation.source import SegmentationSource
from repre_jax.data.sources.decode import BadImage
from repre_jax.errors import UserError
from repre_jax.evaluation.checkpoint import open_pretrained
from repre_jax.evaluation.correspondence.carrier import Carrier
from repre_jax.evaluation.correspondence.clips import DAVIS, clips_of, open_videos
from repre_jax.evaluation.correspondence.judges import MeanIoU, RegionAndBoundary
from repre_jax.evaluation.segmentation.maps import chosen_blocks, names_of, reported_of
from repre_jax.evaluation.segmentation.pictures import picture_path, save_comparison
from repre_jax.evaluation.segmentation.views import check_channels, check_one_process
from repre_jax.evaluation.task import (
    ENCODER_FREE_TO_CHANGE,
    ENCODER_RANGES,
    LABEL_RANGES,
    Evaluation,
    Task,
)
from repre_jax.ranges import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE
from repre_jax.runs.progress import counted_on_screen
from repre_jax.sharding import replicated

_COPY = "first_frame"  # the baseline that knows no features


def measure_propagation(evaluation: Evaluation) -> dict[str, Any]:
    """Carries labels through every clip with the features of every block, and judges them.

    Beside them stand the same features of the encoder before its training, where that was random,
    and the labels of the first frame as they are.

    Raises:
      UserError: no clip that can be read, or a block that there is not.
    """
    check_one_process()
    config, source = evaluation.config, evaluation.val
    if config.clip_frames == 1:
        raise UserError("clip_frames=1 leaves no frame behind the first; 0 is for whole videos.")
    blocks = chosen_blocks(evaluation.pretrained.encoder, config.blocks)
    fused = config.fuse and len(blocks) > 1
    names = names_of(blocks, fused)
    clips = clips_of(list(source.names), config.clip_frames)
    networks, pretrained = {"blocks": evaluation.params}, evaluation.pretrained
    is_random, began_random = pretrained.weights == "random", not pretrained.config.model.init_from
    if config.beside_random and began_random and not is_random:
        random = open_pretrained(config.checkpoint, weights="random").load_params()
        networks["random"] = jax.device_put(random, replicated(evaluation.mesh))
    judge = RegionAndBoundary if config.data.layout == DAVIS else MeanIoU
    judges = {kind: {name: judge(source.class_names) for name in names} for kind in networks}
    copied = judge(source.class_names)
    carrier = Carrier(evaluation, blocks, fused)
    read, missing = 0, {}
    with counted_on_screen(len(clips), "clips") as advance:
        for clip in clips:
            try:
                frames, labels = carrier.read(clip)
            except BadImage as error:
                advance()
                missing[error.path] = f"{error.reason}; clip {clip.name} is left out"
                continue
            read += 1
            copied.add(labels, [labels[0]] * (len(labels) - 1))
            for kind, params in networks.items():
                for name, found in zip(names, carrier.carry(params, frames, labels), strict=True):
                    judges[kind][name].add(labels, found)
                    if (kind, name) == ("blocks", reported_of(names)) and read <= config.pictures:
                        path = picture_path(evaluation.folder.path, read - 1)
                        image = resize(frames[-1], *labels[-1].shape, "bilinear")
                        save_comparison(path, image, labels[-1], found[-1], source.colours)
            advance()
    if missing:
        evaluation.note_missing(source, missing, len(clips), "clips")
    metrics: dict[str, Any] = {
        kind: {name: judged.result() for name, judged in of_kind.items()}
        for kind, of_kind in judges.items()
    }
    return _results(evaluation, judge, metrics | {_COPY: copied.result()}, names, read)


def open_colour_videos(
    data: ConfigDict, channels: int
) -> tuple[SegmentationSource, SegmentationSource]:
    """``open_videos`` for an encoder of colour pictures; UserError for another."""
    check_channels(channels)
    return open_videos(data, channels)


TASK = Task(
    measure=measure_propagation,
    ranges={
        **ENCODER_RANGES,
        **LABEL_RANGES,
        "clip_frames": NOT_NEGATIVE,
        "radius": NOT_NEGATIVE,
        "neighbours": AT_LEAST_ONE,
        "temperature": POSITIVE,
        "context_frames": AT_LEAST_ONE,
        "pictures": NOT_NEGATIVE,
    },
    free_to_change=(*ENCODER_FREE_TO_CHANGE, "data.path", "pictures"),
    open=open_colour_videos,
    own_data=True,
)


def _results(
    evaluation: Evaluation, judge: Any, metrics: dict, names: tuple[str, ...], clips: int
) -> dict:
    config = evaluation.config
    reported = reported_of(names)
    value = metrics["blocks"][reported][judge.metric]
    of_random = metrics.get("random", {}).get(reported, {}).get(judge.metric)
    copied = metrics[_COPY][judge.metric]
    beside = f"; labels of the first frame as they are {copied:.2%}"
    if of_random is not None:
        beside += f", the encoder before training {of_random:.2%}"
    return {
        "metric": judge.metric,
        "value": value,
        "protocol": "label_propagation",
        "formula": (
            f"{judge.formula}; labels of a clip's first frame carried on by the features of block "
            f"{reported}: weights exp(cosine / {config.temperature:g}) of the {config.neighbours} "
            f"nearest patches within {config.radius} patches, of the first frame and the latest "
            f"{config.context_frames}; {clips} clips; source: facebookresearch/dino, "
            "eval_video_segmentation.py"
        ),
        "metrics": metrics,
        "line": evaluation.line(
            f"label propagation {judge.metric} {value:.2%} (block {reported}{beside})"
        ),
    }
