"""Which images make up batch t, and how its rows are made: pure functions of (seed, t).

Nothing here knows of threads or processes; ``pipeline.py`` decides who calls what and when.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from grain.experimental import index_shuffle

from repre_jax.data.host.crops import CENTRE_CROP, centre_view, crop_views, empty_views
from repre_jax.data.recipes import ViewRecipe
from repre_jax.data.sources.decode import BadImage
from repre_jax.data.sources.source import NO_LABEL, Source
from repre_jax.errors import UserError
from repre_jax.image_size import ImageSize, height_and_width

# Rows made in one go, by one thread of one worker. Few enough that the first batch comes soon
# and that workers hold little memory, enough that handing them over costs nothing.
_ROWS_PER_CHUNK = 32
_SHUFFLE_ROUNDS = 4
_NUMBERS = ("index", "epoch", "label", "replaced")
NOT_REPLACED = -1
PADDING = -1


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of every global batch that this process makes, cut into chunks.

    Attributes:
      first: first row.
      count: number of rows.
      most: of them in a chunk; None for the usual number.
    """

    first: int
    count: int
    most: int | None = None

    @property
    def per_chunk(self) -> int:
        """Rows of the largest chunk, at most."""
        return min(self.count, self.most or _ROWS_PER_CHUNK)

    @property
    def chunks(self) -> int:
        """Number of chunks of one batch."""
        return -(-self.count // self.per_chunk)

    def chunk(self, number: int) -> range:
        """Returns the global row numbers of one chunk."""
        start = number * self.count // self.chunks
        stop = (number + 1) * self.count // self.chunks
        return range(self.first + start, self.first + stop)


@dataclasses.dataclass(frozen=True)
class TrainingChunks:
    """Makes chunk c of the endless training sequence that starts at step 0.

    Attributes:
      source: where the images come from.
      recipe: how views are cut.
      image_size: of a global view, in pixels.
      batch_size: global batch size.
      seed: of the shuffle and of the crops.
      rows: what this process makes of each batch.
    """

    source: Source
    recipe: ViewRecipe
    image_size: ImageSize
    batch_size: int
    seed: int
    rows: Rows

    @property
    def chunk_bytes(self) -> int:
        """Size of the pixels of the largest chunk."""
        views = self._empty_views(1)
        return sum(x.nbytes for x in views.values()) * self.rows.per_chunk

    def _empty_views(self, rows: int) -> dict[str, np.ndarray]:
        return empty_views(self.recipe, self.image_size, rows, pixels=self.source.pixels)

    def __call__(self, chunk: int) -> dict[str, np.ndarray]:
        cv2.setNumThreads(0)  # chunks run side by side already
        step, number = divmod(chunk, self.rows.chunks)
        rows = self.rows.chunk(number)
        # Views are written where they stay: copying them costs as much as decoding the image.
        views = self._empty_views(len(rows))
        numbers = {key: np.empty(len(rows), np.int32) for key in _NUMBERS}
        for position, row in enumerate(rows):
            out = {key: array[position] for key, array in views.items()}
            for key, value in self._fill(step, row, out).items():
                numbers[key][position] = value
        return views | numbers

    def _fill(self, step: int, row: int, out: dict[str, np.ndarray]) -> dict[str, int]:
        """Writes the views of one row and returns its numbers."""
        epoch, wanted = wanted_image(
            step, row, images=len(self.source), batch_size=self.batch_size, seed=self.seed
        )
        index, image, label = read_or_next(self.source, wanted)
        # Keyed by the image that was wanted: an image that also stands in for an unreadable one
        # in the same epoch is then cropped differently there.
        rng = crop_rng(self.seed, epoch, wanted)
        crop_views(image, self.recipe, self.image_size, rng, out)
        replaced = NOT_REPLACED if index == wanted else wanted
        return {"index": index, "epoch": epoch, "label": label, "replaced": replaced}


@dataclasses.dataclass(frozen=True)
class EvaluationChunks:
    """Makes chunk c of the images in order, centre-cropped, the last batch padded.

    Attributes:
      source: where the images come from.
      image_size: of the view, in pixels.
      batch_size: global batch size.
      rows: what this process makes of each batch.
      interpolation: of the resizing.
      crop_ratio: share of the short side that is kept.
    """

    source: Source
    image_size: ImageSize
    batch_size: int
    rows: Rows
    interpolation: str = "bicubic"
    crop_ratio: float = CENTRE_CROP

    @property
    def chunk_bytes(self) -> int:
        """Size of the pixels of the largest chunk."""
        return self._empty_views(1).nbytes * self.rows.per_chunk

    def _empty_views(self, rows: int) -> np.ndarray:
        pixels = self.source.pixels
        shape = (rows, *height_and_width(self.image_size), pixels.channels)
        return np.zeros(shape, pixels.dtype)

    def __call__(self, chunk: int) -> dict[str, np.ndarray]:
        cv2.setNumThreads(0)
        step, number = divmod(chunk, self.rows.chunks)
        rows = self.rows.chunk(number)
        batch = {
            "image": self._empty_views(len(rows)),
            "label": np.full(len(rows), NO_LABEL, np.int32),
            "index": np.full(len(rows), PADDING, np.int32),
            "mask": np.zeros(len(rows), bool),
        }
        for position, row in enumerate(rows):
            index = step * self.batch_size + row
            if index >= len(self.source):
                break
            batch["index"][position] = index
            try:
                image, label = self.source.read_with_label(index)
            except BadImage:
                continue
            batch["image"][position] = centre_view(
                image,
                self.image_size,
                crop_ratio=self.crop_ratio,
                interpolation=self.interpolation,
            )
            batch["label"][position] = label
            batch["mask"][position] = True
        return batch


def wanted_image(
    step: int, row: int, *, images: int, batch_size: int, seed: int
) -> tuple[int, int]:
    """(epoch, number of the image) of a row of a step's global batch; ``training_batches``."""
    epoch, step_in_epoch = divmod(step, images // batch_size)
    return epoch, shuffled(step_in_epoch * batch_size + row, images, seed, epoch)


def shuffled(position: int, count: int, seed: int, epoch: int) -> int:
    """Which of ``count`` things is at a position of an epoch's order."""
    return index_shuffle(
        position, max_index=count - 1, seed=_epoch_seed(seed, epoch), rounds=_SHUFFLE_ROUNDS
    )


def read_or_next(
    source: Source, wanted: int, read: Callable[[int], tuple[np.ndarray, Any]] | None = None
) -> tuple[int, np.ndarray, Any]:
    """Reads an image, or the next one in the source that can be read.

    Args:
      source: where the images come from.
      wanted: the image asked for.
      read: what to read of an image by its number; None for ``source.read_with_label``.

    Returns:
      (index that was read, pixels [H, W, C], label), or what ``read`` gives beside the pixels.

    Raises:
      UserError: no image of the source can be read.
    """
    read, first_error = read or source.read_with_label, None
    for offset in range(len(source)):
        index = (wanted + offset) % len(source)
        try:
            return index, *read(index)
        except BadImage as error:
            first_error = first_error or error
    raise UserError(
        f"None of the {len(source)} images of {source.description} can be read ({first_error}); "
        "check that the files are whole and readable."
    )


def why_unreadable(source: Source, index: int) -> tuple[str, str]:
    """(name, reason) of an image that could not be read, by reading it once more."""
    name = source.name_of(index)
    try:
        source.check(index)
    except BadImage as error:
        # Of an image and its map it may be the map.
        return name, error.reason if error.path == name else str(error)
    return name, "it could be read a moment later"


def _epoch_seed(seed: int, epoch: int) -> int:
    digest = hashlib.blake2b(f"shuffle {seed} {epoch}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")


def crop_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The draws for an image in an epoch."""
    # A counter-based generator: making one costs microseconds, unlike seeding a stateful one.
    key = (seed % 2**64) | epoch << 64 | index << 96
    return np.random.Generator(np.random.Philox(key=key))
