"""Images and the map of classes of each, as one source."""

import abc
import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from repre_jax.data.pixel_format import PixelFormat
from repre_jax.data.segmentation.label_maps import Classes, decode_label_map, palette
from repre_jax.data.sources.decode import BadImage
from repre_jax.data.sources.names import PackedNames
from repre_jax.data.sources.source import Source, file_size, short_hash
from repre_jax.errors import UserError

_MOST_NAMED = 3


class Pair(NamedTuple):
    """Names of an image and of its map, relative to the root of the set, with "/"."""

    image: str
    label: str


class SegmentationSource(Source):
    """Images with a class for every pixel.

    Attributes:
      classes: what the ids in the maps mean.
    """

    why_unlabelled = "its labels are maps"
    classes: Classes

    @abc.abstractmethod
    def label_name_of(self, index: int) -> str:
        """What to call the map of image ``index``."""

    @abc.abstractmethod
    def encoded_label(self, index: int) -> bytes:
        """The file of the map of image ``index``; ``BadImage`` where it cannot be read."""

    @functools.cached_property
    def _table(self) -> np.ndarray:
        return self.classes.table()

    @property
    def colours(self) -> np.ndarray:
        """uint8 [classes, 3], in which classes are drawn."""
        own = self.classes.colours
        return palette(len(self.classes.names)) if own is None else np.asarray(own, np.uint8)

    def read_label(self, index: int) -> np.ndarray:
        """Classes of the pixels of image ``index``: uint8 [H, W], ``VOID`` for those without.

        Raises:
          BadImage: the map is damaged.
          UserError: an id that is neither a class nor ignored, which the next map has as well.
        """
        name = self.label_name_of(index)
        stored = decode_label_map(self.encoded_label(index), name)
        classes = self._table[stored]
        if (classes < 0).any():
            told = ", ".join(map(str, np.unique(stored[classes < 0])[:_MOST_NAMED]))
            raise UserError(
                f"{name} has the id {told}, which is none of the {len(self.classes.names)} classes "
                "of the set and none of the ids to be ignored: correct data.classes, data.ignore "
                "or data.layout."
            )
        return classes.astype(np.uint8)

    def read_pair(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """(image [H, W, C] of levels, classes uint8 [H, W] with ``VOID``).

        Raises:
          BadImage: one of the files is damaged, or they differ in size.
          UserError: as ``read_label``.
        """
        image, label = self.read(index), self.read_label(index)
        if image.shape[:2] != label.shape:
            rows, columns = label.shape
            raise BadImage(
                self.name_of(index),
                f"{image.shape[0]} x {image.shape[1]} pixels, and its map {rows} x {columns}",
            )
        return image, label

    def check(self, index: int) -> None:
        self.read_pair(index)


class FilePairs(SegmentationSource):
    """Images and maps that are files below one folder.

    Attributes:
      classes: what the ids in the maps mean.
      root: of the set; names of images and maps are relative to it.
      names: of the images.
    """

    def __init__(
        self, root: Path, pairs: Sequence[Pair], classes: Classes, what: str, channels: int = 3
    ):
        """Makes a source of pairs.

        Args:
          root: where the names begin.
          pairs: in the order of the images.
          classes: of the maps.
          what: kind and split, as in "CamVid, val", for messages.
          channels: C of the images.

        Raises:
          UserError: no pair, or maps that are missing.
        """
        self.root, self.classes = root, classes
        self.class_names = classes.names
        self.description = f"{what} of {root}"
        self.pixels = PixelFormat(channels)
        if not pairs:
            raise UserError(f"{self.description} has no image: point data.path at the set.")
        missing = [pair.label for pair in pairs if not (root / pair.label).is_file()]
        if missing:
            raise UserError(
                f"{self.description}: {len(missing)} of {len(pairs)} images have no map of labels; "
                f"missing are {', '.join(missing[:_MOST_NAMED])}"
                f"{' ...' if len(missing) > _MOST_NAMED else '.'}"
            )
        self.names = PackedNames(pair.image for pair in pairs)
        self._labels = PackedNames(pair.label for pair in pairs)
        self._sizes = [[file_size(root / name) for name in pair] for pair in pairs]
        self.fingerprint = short_hash(
            self.names.block,
            self._labels.block,
            np.asarray(self._sizes, np.int64).tobytes(),
            classes.table().tobytes(),
        )

    def __len__(self) -> int:
        return len(self.names)

    def name_of(self, index: int) -> str:
        return os.path.join(self.root, self.names[index])

    def label_name_of(self, index: int) -> str:
        return os.path.join(self.root, self._labels[index])

    def encoded(self, index: int) -> bytes:
        return _read(self.name_of(index))

    def encoded_label(self, index: int) -> bytes:
        return _read(self.label_name_of(index))

    def listing(self) -> Iterator[bytes]:
        for index, (size, of_label) in enumerate(self._sizes):
            yield self.names.encoded(index) + f"\t{size:,} bytes, label {of_label:,}".encode()


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise BadImage(path, error.strerror or str(error)) from None
