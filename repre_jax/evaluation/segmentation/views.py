"""Whole images with their maps, all at one size, in batches."""

import dataclasses

import cv2
import jax
import numpy as np
from ml_collections import ConfigDict

from repre_jax.data.batches import NOT_REPLACED, PADDING, Rows, read_or_next
from repre_jax.data.host.crops import resize
from repre_jax.data.pipeline import Batches, batches_of, process_rows
from repre_jax.data.segmentation.label_maps import VOID
from repre_jax.data.segmentation.layouts import open_segmentation
from repre_jax.data.segmentation.source import SegmentationSource
from repre_jax.data.sources.decode import BadImage
from repre_jax.errors import UserError
from repre_jax.evaluation.features import Features
from repre_jax.evaluation.task import Evaluation
from repre_jax.image_size import ImageSize, height_and_width


def whole_view(
    image: np.ndarray, label: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """An image resized (bilinear, antialiased), and its map (nearest, by pixel centres), to a size.

    What is not of the size's shape is squeezed into it: nothing of an image is cut off.
    """
    rows, columns = size
    nearest = cv2.resize(label, (columns, rows), interpolation=cv2.INTER_NEAREST_EXACT)
    return resize(image, rows, columns, "bilinear"), nearest


@dataclasses.dataclass(frozen=True)
class WholeViews:
    """Makes chunk c of the images, in order and padded, or in an order given for every step.

    Attributes:
      source: of images and maps.
      image_size: (H, W).
      batch_size: of all processes together.
      rows: what this process makes of each batch.
      order: int [steps * batch_size], numbers of images; None for their own order.
    """

    source: SegmentationSource
    image_size: tuple[int, int]
    batch_size: int
    rows: Rows
    order: np.ndarray | None = None

    @property
    def chunk_bytes(self) -> int:
        """Size of the pixels of the largest chunk."""
        return self.rows.count * int(np.prod(self.image_size)) * (self.source.pixels.channels + 1)

    def __call__(self, chunk: int) -> dict[str, np.ndarray]:
        cv2.setNumThreads(0)  # chunks run side by side already
        step, number = divmod(chunk, self.rows.chunks)
        rows = self.rows.chunk(number)
        shape = (len(rows), *self.image_size)
        batch = {
            "image": np.zeros((*shape, self.source.pixels.channels), np.uint8),
            "label": np.full(shape, VOID, np.uint8),
            "index": np.full(len(rows), PADDING, np.int32),
            "mask": np.zeros(len(rows), bool),
            "replaced": np.full(len(rows), NOT_REPLACED, np.int32),
        }
        order = range(len(self.source)) if self.order is None else self.order
        for position, row in enumerate(rows):
            place = step * self.batch_size + row
            if place >= len(order):
                break
            wanted = int(order[place])
            batch["index"][position], pair = self._read(wanted)
            if pair is None:
                continue
            if batch["index"][position] != wanted:
                batch["replaced"][position] = wanted
            batch["image"][position], batch["label"][position] = whole_view(*pair, self.image_size)
            batch["mask"][position] = True
        return batch

    def _read(self, wanted: int) -> tuple[int, tuple[np.ndarray, np.ndarray] | None]:
        """(number, image and map) of an image, None for an unreadable one.

        In an order given, which is a training's, the next image stands in for that: heads would
        learn from black, and their BatchNorm would count it.
        """
        if self.order is not None:
            index, *pair = read_or_next(self.source, wanted, self.source.read_pair)
            return index, tuple(pair)
        try:
            return wanted, self.source.read_pair(wanted)
        except BadImage:
            return wanted, None


def whole_batches(
    source: SegmentationSource,
    *,
    image_size: ImageSize,
    batch_size: int,
    workers: int,
    order: np.ndarray | None = None,
    start_step: int = 0,
) -> Batches:
    """Whole images: {"image" uint8 [b, H, W, C], "label" uint8 [b, H, W], "index", "mask", ...}.

    ``mask`` is False, and every label void, where there is no image: past the end (index -1), or
    unreadable. In an order given another image stands in for an unreadable one, whose number is in
    "replaced" then.

    Args:
      source: of images and maps.
      image_size: of the views.
      batch_size: B of all processes together.
      workers: worker processes; 0 for threads.
      order: of ``WholeViews``.
      start_step: the first batch wanted.
    """
    rows = process_rows(batch_size)
    size = height_and_width(image_size)
    count = len(source) if order is None else len(order)
    chunks = WholeViews(source, size, batch_size, rows, order)
    return batches_of(chunks, rows, start_step, -(-count // batch_size), workers)


def training_order(images: int, *, batch_size: int, steps: int, seed: int) -> np.ndarray:
    """Numbers of the images of every row of ``steps`` batches, each epoch in an order of its own.

    What remains of an epoch behind its last whole batch is left out.
    """
    per_epoch = images // batch_size
    epochs = -(-steps // per_epoch)
    orders = [
        np.random.default_rng((seed, epoch)).permutation(images)[: per_epoch * batch_size]
        for epoch in range(epochs)
    ]
    return np.concatenate(orders)[: steps * batch_size].astype(np.int32)


def open_colour_pairs(data: ConfigDict, channels: int) -> tuple[SegmentationSource, ...]:
    """Training and validation images with maps, for an encoder of colour pictures."""
    check_channels(channels)
    return open_segmentation(data, channels)


def check_channels(channels: int) -> None:
    """Raises UserError for an encoder of other images than colour pictures."""
    if channels != 3:
        raise UserError(f"The encoder takes images of {channels} channels; this task needs RGB.")


def check_one_process() -> None:
    """Raises UserError where several machines would share the images."""
    if jax.process_count() > 1:
        raise UserError("This task runs on one machine: leave out --distributed.")


def note_unread(evaluation: Evaluation, source: SegmentationSource, index: np.ndarray) -> None:
    """Says which images of ``source`` are not among those of ``index`` int [n], and why."""
    nothing = Features(np.zeros((len(index), 0)), np.full(len(index), -1), np.asarray(index))
    evaluation.note_unreadable(source, nothing)
