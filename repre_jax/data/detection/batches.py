"""Batches of images with objects: every array of one shape, whatever the images are."""

import dataclasses

import cv2
import numpy as np

from repre_jax.data.batches import (
    NOT_REPLACED,
    PADDING,
    Rows,
    crop_rng,
    read_or_next,
    wanted_image,
)
from repre_jax.data.detection.coco import CocoSource
from repre_jax.data.detection.views import (
    MASK_SIDE,
    Window,
    fitted_window,
    jittered_window,
    short_edge_window,
    view_objects,
    view_pixels,
)
from repre_jax.data.pipeline import Batches, batches_of, process_rows
from repre_jax.data.sources.decode import BadImage

_ROWS_PER_CHUNK = 2  # a view of 1,024 pixels and the masks of 100 objects are 4 MB


@dataclasses.dataclass(frozen=True)
class DetectionViews:
    """How images and their objects become arrays.

    Attributes:
      side: of the square in whose corner views lie, in pixels.
      scales: of the large-scale jitter, smallest and largest, as shares of ``side``.
      short_edges: in place of the jitter, lengths of the short edge in pixels, to choose from, the
        largest of which is that at test; () for the jitter.
      longest: what the long edge may become beside them.
      crop: whether half of the views with short edges are crops.
      flip_probability: horizontal flip.
      objects: G, room for so many of an image.
    """

    side: int
    scales: tuple[float, float] = (0.1, 2.0)
    short_edges: tuple[int, ...] = ()
    longest: int = 1333
    crop: bool = False
    flip_probability: float = 0.5
    objects: int = 100

    def training_window(self, size: tuple[int, int], rng: np.random.Generator) -> Window:
        """A random window into an image of ``size``."""
        flip = self.flip_probability
        if not self.short_edges:
            return jittered_window(size, self.side, rng, scales=self.scales, flip_probability=flip)
        return short_edge_window(
            size,
            rng,
            short_edges=self.short_edges,
            longest=self.longest,
            crop=self.crop,
            flip_probability=flip,
        )

    def whole_window(self, size: tuple[int, int]) -> Window:
        """The window of an image of ``size`` at test."""
        if self.short_edges:
            return fitted_window(size, max(self.short_edges), self.longest)
        return fitted_window(size, self.side, self.side)


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
        return sum(x.nbytes for x in self._empty(self.rows.per_chunk).values())

    def _empty(self, rows: int) -> dict[str, np.ndarray]:
        side, objects = self.views.side, self.views.objects
        of_image = {key: np.zeros(rows, np.int32) for key in ("index", "epoch", "left_out")}
        return of_image | {
            "replaced": np.full(rows, NOT_REPLACED, np.int32),
            "image": np.empty((rows, side, side, 3), np.uint8),
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
        batch = self._empty(len(rows))
        for position, row in enumerate(rows):
            self._fill(
                step, row, {key: array[position : position + 1] for key, array in batch.items()}
            )
        return batch

    def _fill(self, step: int, row: int, out: dict[str, np.ndarray]) -> None:
        """Writes one row, given as arrays of one row."""
        epoch, wanted = wanted_image(
            step, row, images=len(self.source), batch_size=self.batch_size, seed=self.seed
        )
        index, image, _ = read_or_next(self.source, wanted)
        size = image.shape[:2]
        window = self.views.training_window(size, crop_rng(self.seed, epoch, wanted))
        view_pixels(image, window, out["image"][0])
        objects = view_objects(self.source.instances(index), size, window)
        kept = min(len(objects.boxes), self.views.objects)
        for key, values in objects._asdict().items():
            out[key][0, :kept] = values[:kept]
        out["valid"][0, :kept] = True
        out["left_out"][0] = len(objects.boxes) - kept
        out["size"][0] = window.size
        out["index"][0], out["epoch"][0] = index, epoch
        out["replaced"][0] = NOT_REPLACED if index == wanted else wanted


@dataclasses.dataclass(frozen=True)
class WholeImageChunks:
    """Makes chunk c of the images in order, each as large as fits, the last batch padded.

    Attributes:
      source: where the images come from.
      views: what becomes of them.
      batch_size: global batch size.
      rows: what this process makes of each batch.
    """

    source: CocoSource
    views: DetectionViews
    batch_size: int
    rows: Rows

    @property
    def chunk_bytes(self) -> int:
        """Size of the largest chunk."""
        return self.rows.per_chunk * self.views.side**2 * 3

    def __call__(self, chunk: int) -> dict[str, np.ndarray]:
        cv2.setNumThreads(0)
        step, number = divmod(chunk, self.rows.chunks)
        rows, side = self.rows.chunk(number), self.views.side
        batch = {
            "image": np.zeros((len(rows), side, side, 3), np.uint8),
            "size": np.ones((len(rows), 2), np.float32),
            "index": np.full(len(rows), PADDING, np.int32),
            "mask": np.zeros(len(rows), bool),
        }
        for position, row in enumerate(rows):
            index = step * self.batch_size + row
            if index >= len(self.source):
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

    The order of the images is that of ``pipeline.training_batches``.

    Returns:
      Iterator of {"image": uint8 [b, S, S, 3], zeros below and right of the view, "size": float32
      [b, 2] (height, width) of the view, "boxes": float32 [b, G, 4], "classes": int32 [b, G],
      "valid": bool [b, G], "masks": uint8 [b, G, 112, 112], "left_out": int32 [b] objects for which
      there was no room, "index", "epoch", "replaced": int32 [b]}.
    """
    rows = dataclasses.replace(process_rows(batch_size), most=_ROWS_PER_CHUNK)
    chunks = DetectionChunks(source, views, batch_size, seed, rows)
    return batches_of(chunks, rows, start_step, total_steps, workers)


def whole_image_batches(
    source: CocoSource, views: DetectionViews, *, batch_size: int, workers: int
) -> Batches:
    """This process's rows of every image in order.

    Returns:
      Iterator of {"image", "size" as of ``detection_batches``, "index": int32 [b], -1 past the end,
      "mask": bool [b], whether there is an image that could be read}.
    """
    rows = dataclasses.replace(process_rows(batch_size), most=_ROWS_PER_CHUNK)
    chunks = WholeImageChunks(source, views, batch_size, rows)
    return batches_of(chunks, rows, 0, -(-len(source) // batch_size), workers)
