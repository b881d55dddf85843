"""What a detector finds in the validation images, and what that is worth to COCO."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from repre_jax.data.detection.batches import whole_image_batches
from repre_jax.data.detection.coco import CocoSource
from repre_jax.evaluation.detection.coco_metrics import (
    Found,
    average_precisions,
    coco_results,
)
from repre_jax.evaluation.detection.pictures import draw_detections
from repre_jax.evaluation.detection.recipes import views_of
from repre_jax.evaluation.detection.step import Trainer
from repre_jax.evaluation.features import Features
from repre_jax.evaluation.task import Evaluation
from repre_jax.models.detection.detector import Detections
from repre_jax.runs.progress import counted_on_screen
from repre_jax.sharding import by_row, jitted

_PICTURED = 6
_SHOWN = ("AP", "AP50", "AP75")  # of each kind, at every validation; the rest at the end


class Validation:
    """What a detector finds in the validation images, and what that is worth.

    Attributes:
      precisions: of the last measurement, as of ``average_precisions``.
      cut_short: images in it where more candidates than were looked at might have added to what was
        found.
    """

    def __init__(self, evaluation: Evaluation, trainer: Trainer):
        """Of a training."""
        self._evaluation = evaluation
        self._source: CocoSource = evaluation.val
        self._views = views_of(trainer.recipe, trainer.side)
        self._detect: Callable[[Any, Mapping[str, jax.Array]], Detections] = jitted(
            trainer.detections, evaluation.mesh
        )
        self.precisions: dict[str, dict[str, float]] = {}
        self.cut_short = 0

    def try_out(self, params: Any) -> None:
        """One batch: what is wrong with images or memory shows before the training.

        Raises:
          UserError: none of the images can be read.
        """
        if next(self._found(params), None) is None:
            self._note_read([])

    def metrics(self, params: Any) -> dict[str, float]:
        """{"val/box_AP", ...}: the usual ones; ``precisions`` has all of the last measurement."""
        source, results, read, cut_short = self._source, [], [], 0
        categories = source.annotations.categories.ids
        with counted_on_screen(len(source), "validation images") as advance:
            for index, found, cut in self._found(params):
                advance()
                read.append(index)
                cut_short += cut
                results += coco_results(
                    found,
                    image_id=source.image_id(index),
                    size=source.size(index),
                    category_ids=categories,
                )
        self._note_read(read)
        ids = [source.image_id(index) for index in read]
        self.precisions = average_precisions(source.annotations.path, results, ids)
        self.cut_short = cut_short
        return {
            f"val/{kind}_{name}": values[name]
            for kind, values in self.precisions.items()
            for name in _SHOWN
        }

    def _note_read(self, read: Sequence[int]) -> None:
        index, nothing = np.array(read, np.int32), np.zeros(len(read), np.int32)
        self._evaluation.note_unreadable(self._source, Features(nothing, nothing, index))

    def draw(self, params: Any) -> None:
        """Writes figures/detections.png of the first images."""
        found = []
        for index, detections, _ in self._found(params):
            found.append((index, detections))
            if len(found) == _PICTURED:
                break
        if found and jax.process_index() == 0:
            path = self._evaluation.folder.path / "figures" / "detections.png"
            draw_detections(path, self._source, found)

    def _found(self, params: Any) -> Iterator[tuple[int, Found, bool]]:
        """(index of an image, what is found in it, whether that was cut short), of those read."""
        config, pending = self._evaluation.config, None
        sharding = by_row(self._evaluation.mesh)
        with whole_image_batches(
            self._source,
            self._views,
            batch_size=self._evaluation.batch_size,
            workers=config.data.workers,
        ) as batches:
            for batch in batches:
                on_device = {
                    key: jax.make_array_from_process_local_data(sharding, batch[key])
                    for key in ("image", "size")
                }
                rest = (batch["size"], batch["index"], batch["mask"])
                following = (self._detect(params, on_device), *rest)
                # One batch is computed while the one before is pasted and the next one decoded.
                if pending is not None:
                    yield from self._rows(*pending)
                pending = following
        if pending is not None:
            yield from self._rows(*pending)

    def _rows(self, detections, size, index, mask) -> Iterator[tuple[int, Found, bool]]:
        arrays = (detections, size, index, mask)
        if jax.process_count() > 1:
            arrays = multihost_utils.process_allgather(arrays, tiled=True)
        detections, size, index, mask = jax.tree.map(np.asarray, arrays)
        for row in np.flatnonzero(mask):
            height, width = self._source.size(int(index[row]))
            valid = detections.valid[row]
            # By the sizes as they are, rounded: not by the scale that was meant.
            scale = np.array([width / size[row, 1], height / size[row, 0]])
            yield (
                int(index[row]),
                Found(
                    detections.boxes[row, valid] * np.tile(scale, 2),
                    detections.scores[row, valid],
                    detections.classes[row, valid],
                    detections.masks[row, valid],
                ),
                bool(detections.cut[row]),
            )
