"""The sources of images, by name, and how a config opens one."""

import numpy as np

from repre_jax.data.decode import BadImage
from repre_jax.data.image_cache import cached
from repre_jax.data.image_folder import FolderSource
from repre_jax.data.source import NO_LABEL, SPLITS, Source, short_hash
from repre_jax.data.tfds_records import TfdsSource
from repre_jax.errors import UserError

__all__ = ["NO_LABEL", "SOURCES", "BadImage", "DigitsSource", "Source", "has_split", "open_source"]

# One digit in five of every class is kept for validation.
_DIGITS_VALIDATION_EVERY = 5


class DigitsSource(Source):
    """The 1,797 handwritten digits that scikit-learn carries: 8 x 8, ten classes, no download.

    Grey levels 0..16 become uint8 0..255 in all three channels. Every fifth image of each class,
    in scikit-learn's order, is the validation split.
    """

    def __init__(self, split: str):
        from sklearn.datasets import load_digits  # a second to import: only who wants digits pays

        digits = load_digits()
        classes = digits.target.astype(np.int32)
        order_in_class = np.zeros(len(classes), np.int64)
        for label in range(10):
            members = np.flatnonzero(classes == label)
            order_in_class[members] = np.arange(len(members))
        is_validation = order_in_class % _DIGITS_VALIDATION_EVERY == _DIGITS_VALIDATION_EVERY - 1
        chosen = np.flatnonzero(is_validation == (split == "val"))
        grey = np.rint(digits.images[chosen] * (255 / 16)).astype(np.uint8)
        self._pixels = np.ascontiguousarray(np.repeat(grey[..., None], 3, axis=-1))
        self._rows = chosen
        self.labels = classes[chosen]
        self.class_names = tuple(str(name) for name in digits.target_names)
        self.description = f"scikit-learn digits ({split})"
        self.fingerprint = short_hash(grey.tobytes(), self.labels.tobytes())

    @classmethod
    def open(cls, data_config, split: str) -> "DigitsSource":
        """Opens a split; nothing in ``data_config`` matters."""
        return cls(split)

    @classmethod
    def has_split(cls, data_config, split: str) -> bool:
        """Digits have both splits."""
        return split in SPLITS

    def __len__(self) -> int:
        return len(self._pixels)

    def read(self, index: int) -> np.ndarray:
        return self._pixels[index]

    def name_of(self, index: int) -> str:
        return f"digits[{self._rows[index]}]"


SOURCES = {"digits": DigitsSource, "folder": FolderSource, "tfds": TfdsSource}


def open_source(data_config, split: str) -> Source:
    """Opens the images that a config names.

    Args:
      data_config: ``source`` (a key of ``SOURCES``), ``path`` (folder of images, or of TFDS
        data), ``name`` (of the TFDS set), ``cache_size`` (short side in pixels at which decoded
        images are kept on disk; 0 for no cache), ``cache_path`` (where; None for the default).
      split: "train" or "val".

    Raises:
      UserError: the source is unknown, absent, empty or has no such split.
    """
    source = _opener(data_config).open(data_config, _checked(split))
    cache_size = data_config.get("cache_size", 0)
    if cache_size and not isinstance(source, DigitsSource):  # digits lie in memory anyway
        return cached(source, cache_size, data_config.get("cache_path"))
    return source


def has_split(data_config, split: str) -> bool:
    """Whether ``open_source`` would find the split; raises ``UserError`` as it does."""
    return _opener(data_config).has_split(data_config, _checked(split))


def _opener(data_config) -> type[Source]:
    if data_config.source not in SOURCES:
        raise UserError(
            f"data.source is {data_config.source!r}; choose one of {', '.join(SOURCES)}."
        )
    return SOURCES[data_config.source]


def _checked(split: str) -> str:
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, expected one of {SPLITS}")
    return split
