"""Batches of images with objects: of one shape a canvas, whatever the images are."""

import dataclasses
import math
from collections.abc import Sequence

import cv2
import numpy as np

from repre_jax.data.batches import NOT_REPLACED, PADDING, Rows, crop_rng, read_or_next
from repre_jax.data.detection.coco import CocoSource
from repre_jax.data.detection.order import Lot, training_lot, validation_lots
from repre_jax.data.detection.views import (
    MASK_SIDE,
    DetectionViews,
    fitted_window,
    view_objects,
    view_pixels,
)
from repre_jax.data.pipeline import Batches, batches_of, process_rows
from repre_jax.data.sources.decode import BadImage

_ROWS_PER_CHUNK = 2  # a view of 1,024 pixels and the masks of 100 objects are 4 MB


@dataclasses.dataclass(frozen=True)
class DetectionChunks:
    """Makes chunk c of the endless training sequence that starts at step 0.

    Attributes:
      source: where images and objects come from.
      views: what becomes of them.
      batch_size: global batch size.
      seed: of the shuffle and of the windows.
      rows: what this process makes of each batch.
    """

    source: CocoSource
    views: DetectionViews
    batch_size: int
    seed: int
    rows: Rows

    @property
    def chunk_bytes(self) -> int:
        """Size of the largest chunk."""
        largest = self._empty(self.rows.per_chunk, self.views.canvases[-1])
        return sum(x.nbytes for x in largest.values())

    def _empty(self, rows: int, canvas: tuple[int, int]) -> dict[str, np.ndarray]:
        objects = self.views.objects
        keys = ("index", "draw", "epoch", "left_out")
        of_image = {key: np.zeros(rows, np.int32) for key in keys}
        return of_image | {
            "replaced": np.full(rows, NOT_REPLACED, np.int32),
            "image": np.empty((rows, *canvas, 3), np.uint8),
            "size": np.empty((rows, 2), np.float32),
            "boxes": np.zeros((rows, objects, 4), np.float32),
            "classes": np.zeros((rows, objects), np.int32),
            "valid": np.zeros((rows, objects), bool),
            "masks": np.zeros((rows, objects, MASK_SIDE, MASK_SIDE), np.uint8),
        }

    def __call__(self, chunk: int) -> dict[str, np.ndarray]:
        cv2.setNumThreads(0)  # chunks run side by side already
        step, number = divmod(chunk, self.rows.chunks)
        rows = self.rows.chunk(number)
        epoch, lot = training_lot(
            self.source, self.views, step, batch_size=self.batch_size, seed=self.seed
        )
        batch = self._empty(len(rows), self.views.canvases[lot.canvas])
        for position, row in enumerate(rows):
            out = {key: array[position : position + 1] for key, array in batch.items()}
            self._fill(epoch, int(lot.images[row]), int(lot.draws[row]), out)
        return batch

    def _fill(self, epoch: int, wanted: int, draw: int, out: dict[str, np.ndarray]) -> None:
        """Writes one row, given as arrays of one row."""
        index, image, _ = read_or_next(self.source, wanted)
        size, canvas = image.shape[:2], out["image"].shape[1:3]
        window = self.views.training_window(size, crop_rng(self.seed, epoch, draw))
        if any(a > b for a, b in zip(window.size, canvas, strict=True)):
            # What stands in for an unreadable image, or fills a batch up, may be of another shape.
            window = fitted_window(size, min(canvas), min(canvas))
        view_pixels(image, window, out["image"][0])
        objects = view_objects(self.source.instances(index), size, window)
        kept = min(len(objects.boxes), self.views.objects)
        for key, values in objects._asdict().items():
            out[key][0, :kept] = values[:kept]
        out["valid"][0, :kept] = True
        out["left_out"][0] = len(objects.boxes) - kept
        out["size"][0] = window.size
        out["index"][0], out["draw"][0], out["epoch"][0] = index, draw, epoch
        out["replaced"][0] = NOT_REPLACED if index == wanted else wanted


@dataclasses.dataclass(frozen=True)
class WholeImageChunks:
    """Makes chunk c of all images, each as large as fits.

    Attributes:
      source: where the images come from.
      views: what becomes of them.
      lots: images of each batch.
      rows: what this process makes of each batch.
    """

    source: CocoSource
    views: DetectionViews
    lots: Sequence[Lot]
    rows: Rows

    @property
    def chunk_bytes(self) -> int:
        """Size of the largest chunk."""
        return self.rows.per_chunk * math.prod(self.views.canvases[-1]) * 3

    def __call__(self, chunk: int) -> dict[str, np.ndarray]:
        cv2.setNumThreads(0)
        step, number = divmod(chunk, self.rows.chunks)
        rows, lot = self.rows.chunk(number), self.lots[step]
        canvas = self.views.canvases[lot.canvas]
        batch = {
            "image": np.zeros((len(rows), *canvas, 3), np.uint8),
            "size": np.ones((len(rows), 2), np.float32),
            "index": np.full(len(rows), PADDING, np.int32),
            "mask": np.zeros(len(rows), bool),
        }
        for position, row in enumerate(rows):
            index = int(lot.images[row])
            if index == PADDING:
                break
            batch["index"][position] = index
            try:
                image = self.source.read(index)
            except BadImage:
                continue
            window = self.views.whole_window(image.shape[:2])
            view_pixels(image, window, batch["image"][position])
            batch["size"][position] = window.size
            batch["mask"][position] = True
        return batch


def detection_batches(
    source: CocoSource,
    views: DetectionViews,
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    total_steps: int,
    workers: int,
) -> Batches:
    """This process's rows of global batches ``start_step`` .. ``total_steps - 1``.

    Batch t is a pure function of (seed, t), as in ``pipeline.training_batches``; which images it
    holds: ``order.training_lot``.

    Returns:
      Iterator of {"image": uint8 [b, H, W, 3] with (H, W) of ``views.canvases``, zeros below and
      right of the view, "size": float32 [b, 2] (height, width) of the view, "boxes": float32
      [b, G, 4], "classes": int32 [b, G], "valid": bool [b, G], "masks": uint8 [b, G, 112, 112],
      "left_out": int32 [b] objects for which there was no room, "index", "draw" (of ``order.Lot``),
      "epoch", "replaced": int32 [b]}.
    """
    rows = dataclasses.replace(process_rows(batch_size), most=_ROWS_PER_CHUNK)
    chunks = DetectionChunks(source, views, batch_size, seed, rows)
    return batches_of(chunks, rows, start_step, total_steps, workers)


def whole_image_batches(
    source: CocoSource, views: DetectionViews, *, batch_size: int, workers: int
) -> Batches:
    """This process's rows of every image, canvas by canvas (``order.validation_lots``).

    Returns:
      Iterator of {"image", "size" as of ``detection_batches``, "index": int32 [b], -1 past the end,
      "mask": bool [b], whether there is an image that could be read}.
    """
    rows = dataclasses.replace(process_rows(batch_size), most=_ROWS_PER_CHUNK)
    lots = validation_lots(source, views, batch_size)
    return batches_of(WholeImageChunks(source, views, lots, rows), rows, 0, len(lots), workers)
