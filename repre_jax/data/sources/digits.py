"""The handwritten digits that scikit-learn carries, as a source."""

import numpy as np

from repre_jax.data.sources.bands import to_levels
from repre_jax.data.sources.source import SPLITS, Source, short_hash

# One digit in five of every class is kept for validation.
_DIGITS_VALIDATION_EVERY = 5


class DigitsSource(Source):
    """The 1,797 handwritten digits that scikit-learn carries: 8 x 8, ten classes, no download.

    Grey levels 0..16 become 0..255, the stored values of ``PixelFormat``, in all channels. Every
    fifth image of each class, in scikit-learn's order, is the validation split.
    """

    reads = ()

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
        self._grey = grey
        self._rows = chosen
        self.labels = classes[chosen]
        self.class_names = tuple(str(name) for name in digits.target_names)
        self.description = f"scikit-learn digits ({split})"
        self.fingerprint = short_hash(grey.tobytes(), self.labels.tobytes())

    @classmethod
    def open(cls, data_config, split: str, train: Source | None = None) -> "DigitsSource":
        """Opens a split; nothing in ``data_config`` matters."""
        return cls(split)

    @classmethod
    def has_split(cls, data_config, split: str) -> bool:
        """Digits have both splits."""
        return split in SPLITS

    @classmethod
    def short_name(cls, data_config) -> str:
        """Digits are always the same."""
        return "digits"

    def __len__(self) -> int:
        return len(self._grey)

    def read(self, index: int) -> np.ndarray:
        levels = self._grey[index][..., None]
        if self.pixels.range:
            levels = to_levels(levels, self.pixels.range)
        return np.repeat(levels, self.pixels.channels, axis=-1)

    def name_of(self, index: int) -> str:
        return f"digits[{self._rows[index]}]"
