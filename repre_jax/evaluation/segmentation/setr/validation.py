"""What a SETR makes of whole images: windows, classes, scores."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from repre_jax.data.host.cores import usable_cores
from repre_jax.data.pixel_format import as_shares
from repre_jax.data.sources.decode import BadImage
from repre_jax.evaluation.segmentation.confusion import confusion_on_host, scores
from repre_jax.evaluation.segmentation.pictures import picture_path, save_comparison
from repre_jax.evaluation.segmentation.setr.step import Segmenter, SETRState
from repre_jax.evaluation.segmentation.setr.windows import class_probabilities
from repre_jax.evaluation.segmentation.views import note_unread
from repre_jax.evaluation.task import Evaluation
from repre_jax.image_size import height_and_width
from repre_jax.runs.progress import counted_on_screen
from repre_jax.sharding import by_row, jitted, replicated

_READ_AHEAD = 4


def validation(
    evaluation: Evaluation, segmenter: Segmenter, base: tuple[int, int] | None
) -> Callable[..., dict[str, Any]]:
    """Function (state, pictures, scales, flipped) -> ``scores`` of all validation images.

    Args:
      evaluation: config, images, devices, folder.
      segmenter: static parts.
      base: (short, long) side that images are made to fit; None for their own size.
    """
    config, source, mesh = evaluation.config, evaluation.val, evaluation.mesh
    windows, classes = evaluation.batch_size, len(source.class_names)

    def logits(params, batch_stats, images, inside):
        height, width = segmenter.crop
        there = (np.arange(height) < inside[:, :1])[:, :, None]
        there = there & (np.arange(width) < inside[:, 1:])[:, None]
        return segmenter.logits(params, batch_stats, as_shares(images), there)

    window_logits = jitted(logits, mesh, out_shardings=replicated(mesh))

    def validate(
        state: SETRState, pictures: int, scales: Sequence[float] = (1.0,), flipped: bool = False
    ) -> dict[str, Any]:
        def logits_of(images, inside):
            images, inside = jax.device_put((images, inside), by_row(mesh))
            return window_logits(state.params, state.batch_stats, images, inside)

        confusion, read = np.zeros((classes, classes + 1), np.int64), []
        with counted_on_screen(len(source), "validation images") as advance:
            for index, pair in _read_ahead(source):
                advance()
                if pair is None:
                    continue
                image, labels = pair
                probabilities = class_probabilities(
                    logits_of,
                    image,
                    crop=segmenter.crop,
                    stride=height_and_width(config.stride),
                    batch=windows,
                    base=base,
                    scales=scales,
                    flipped=flipped,
                )
                given = np.asarray(probabilities.argmax(axis=-1)).astype(np.uint8)
                given = given[: labels.shape[0], : labels.shape[1]]
                confusion += confusion_on_host(labels, given, classes)
                if len(read) < pictures:
                    path = picture_path(evaluation.folder.path, len(read))
                    save_comparison(path, image, labels, given, source.colours)
                read.append(index)
        note_unread(evaluation, source, np.asarray(read, np.int64))
        return scores(confusion, source.class_names)

    return validate


def _read_ahead(source: Any) -> Iterator[tuple[int, Any]]:
    """(index, (image, classes)) of all images, None for an unreadable one; a few are read ahead."""

    def read(index: int):
        try:
            return index, source.read_pair(index)
        except BadImage:
            return index, None

    with ThreadPoolExecutor(usable_cores()) as pool:
        waiting = [pool.submit(read, index) for index in range(min(_READ_AHEAD, len(source)))]
        for following in range(len(waiting), len(source) + len(waiting)):
            yield waiting.pop(0).result()
            if following < len(source):
                waiting.append(pool.submit(read, following))
