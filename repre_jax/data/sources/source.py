"""What a source of images is; ``sources.SOURCES`` lists them."""

import abc
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from repre_jax.data.pixel_format import RGB, PixelFormat
from repre_jax.data.sources.decode import BadImage, decode_image

SPLITS = ("train", "val")
NO_LABEL = -1
_HASHED = 8  # images, spread evenly over a source


class Source(abc.ABC):
    """A fixed list of images, read by position, in any order, from any thread or process.

    Attributes:
      reads: keys of ``config.data``, beside ``source`` and ``workers``, that matter to it.
      pixels: the form in which images are read.
      labelled_by: values of ``config.data.labels`` that it takes, suffixes of files among them.
      labels: int32 [n] class of each image, -1 for one without, or None when there are none.
      why_unlabelled: the reason, where there are none.
      labels_at_hand: whether ``labels`` costs nothing; False where every record is read for them.
      class_names: name of each class, or None when there are none.
      description: what and where the source is, for messages.
      remarks: what a person who starts a run should know of it, in plain sentences.
      fingerprint: short hash that changes when names, sizes or labels of the images change.
    """

    reads: tuple[str, ...] = ("path", "cache_size", "cache_path")
    pixels: PixelFormat = RGB
    labelled_by: tuple[str, ...] = ("auto", "none")
    labels: np.ndarray | None = None
    why_unlabelled: str = "it has none"
    labels_at_hand: bool = True
    class_names: tuple[str, ...] | None = None
    description: str
    remarks: tuple[str, ...] = ()
    fingerprint: str

    @classmethod
    def short_name(cls, data_config) -> str:
        """What the images are called in the name of a run folder."""
        return Path(data_config.path).resolve().name

    @property
    def has_labels(self) -> bool:
        """Whether images have classes; names of classes say so without reading every record."""
        return self.class_names is not None or self.labels is not None

    @property
    def class_count(self) -> int:
        """Number of classes of labelled images; without names it is that of the labels."""
        return len(self.class_names) if self.class_names else int(self.labels.max()) + 1

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    def read(self, index: int) -> np.ndarray:
        """Returns image ``index`` as [H, W, C] in the format ``pixels``; raises ``BadImage``."""
        return decode_image(self.encoded(index), self.name_of(index), self.pixels)

    def encoded(self, index: int) -> bytes | None:
        """Returns image ``index`` as its file holds it, None where there never was a file.

        Raises ``BadImage`` where it cannot be had.
        """
        return None

    @abc.abstractmethod
    def name_of(self, index: int) -> str:
        """Returns the path or record id of image ``index``."""

    def forget_labels(self, why: str) -> None:
        """Has no labels from now on, for the reason ``why``."""
        self.labels, self.class_names, self.why_unlabelled = None, None, why
        self.labels_at_hand = True
        # What is kept of the images on disk, features say, holds their labels.
        self.fingerprint = short_hash(self.fingerprint.encode(), b"without labels")

    def listing(self) -> Iterator[bytes]:
        """What the images can be told by, a line an image (or a file of images): name and size.

        Nothing for a source that is always the same.
        """
        return iter(())

    def check(self, index: int) -> None:
        """Raises ``BadImage`` where image ``index``, or what belongs to it, cannot be read."""
        self.read(index)

    def content(self) -> str:
        """Short hash of the bytes of a few images, for what is kept of them on disk.

        Files of the same names and sizes may be others: uncompressed ones, written anew.
        """
        some = range(0, len(self), max(1, len(self) // _HASHED))
        return short_hash(*(self._bytes_of(index) for index in some))

    def _bytes_of(self, index: int) -> bytes:
        try:
            return self.encoded(index) or b""
        except BadImage as error:
            return error.reason.encode()

    def read_with_label(self, index: int) -> tuple[np.ndarray, int]:
        """Returns the pixels of image ``index`` and its class, -1 when unknown."""
        label = NO_LABEL if self.labels is None else int(self.labels[index])
        return self.read(index), label


class Chosen(Source):
    """Some images of another source, in any order and as often as they are named.

    Their labels come with the images, for those of the other source may have to be read for that.
    """

    labels_at_hand = False

    def __init__(self, source: Source, numbers: np.ndarray):
        """Chooses images of ``source`` by their numbers, int [n]."""
        self._source, self._numbers = source, np.asarray(numbers, np.int64)
        self.pixels = source.pixels
        self.class_names = source.class_names
        self.description = source.description
        self.fingerprint = short_hash(source.fingerprint.encode(), self._numbers.tobytes())

    def __len__(self) -> int:
        return len(self._numbers)

    def read(self, index: int) -> np.ndarray:
        return self._source.read(int(self._numbers[index]))

    def encoded(self, index: int) -> bytes | None:
        return self._source.encoded(int(self._numbers[index]))

    def read_with_label(self, index: int) -> tuple[np.ndarray, int]:
        return self._source.read_with_label(int(self._numbers[index]))

    def name_of(self, index: int) -> str:
        return self._source.name_of(int(self._numbers[index]))


def file_size(file: Path | os.DirEntry) -> int:
    """Bytes of a file; 0 of one that is not there, which reading it will report."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def short_hash(*parts: bytes) -> str:
    """Returns 16 hexadecimal digits that depend on every part and on where parts end."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()
