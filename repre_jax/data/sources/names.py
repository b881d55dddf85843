"""Many names in little memory."""

import os
from collections.abc import Iterable, Sequence

import numpy as np


class PackedNames(Sequence[str]):
    """Names as one block of bytes and their ends in it.

    A list of a million strings would be pickled to every worker process and be a million objects
    there.

    Attributes:
      block: all names, one after another, as the file system has them.
      ends: int64 [n], where each ends in the block.
    """

    def __init__(self, names: Iterable[str]):
        encoded = [os.fsencode(name) for name in names]
        self.block = b"".join(encoded)
        self.ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)

    @classmethod
    def of(cls, block: bytes, ends: np.ndarray) -> "PackedNames":
        """The names that lie in ``block``."""
        names = cls(())
        names.block, names.ends = block, ends
        return names

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        return os.fsdecode(self.encoded(index))

    def encoded(self, index: int) -> bytes:
        """Name ``index`` as the file system has it."""
        start = self.ends[index - 1] if index else 0
        return self.block[start : self.ends[index]]
