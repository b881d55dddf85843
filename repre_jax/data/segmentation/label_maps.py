"""From the bytes of a map of labels to class ids, as they are stored."""

import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from repre_jax.data.sources.decode import MOST_PIXELS, BadImage
from repre_jax.data.sources.png import PNG_START, read_png_header
from repre_jax.errors import UserError

# What a pixel without a class has, wherever label maps are handled.
VOID = 255
MOST_CLASSES = 255
_IDS = 2**16


class Classes(NamedTuple):
    """What the ids of a set mean.

    Attributes:
      names: of the classes, in their order.
      ids: the stored id of each class.
      ignored: stored ids of pixels that have no class.
      colours: uint8 [n, 3], in which a class is drawn; None for ``palette``'s.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]
    ignored: tuple[int, ...]
    colours: tuple[tuple[int, int, int], ...] | None = None

    def table(self) -> np.ndarray:
        """int16 [65536]: class of each stored id, ``VOID`` for an ignored one, -1 for all others.

        An id that is a class and ignored as well is a class.
        """
        table = np.full(_IDS, -1, np.int16)
        table[list(self.ignored)] = VOID
        table[list(self.ids)] = np.arange(len(self.ids))
        return table


def plain_classes(count: int, ignored: tuple[int, ...]) -> Classes:
    """Classes without names, whose ids are their numbers.

    Raises:
      UserError: fewer than two, more than ``MOST_CLASSES``, or ids that no file can hold.
    """
    if not 2 <= count <= MOST_CLASSES:
        raise UserError(f"data.classes={count} must be from 2 to {MOST_CLASSES}.")
    for number in ignored:
        if not 0 <= number < _IDS:
            raise UserError(f"data.ignore={tuple(ignored)} must each be from 0 to {_IDS - 1}.")
    kept = tuple(number for number in range(count) if number not in ignored)
    if len(kept) < count:
        raise UserError(
            f"data.ignore={tuple(ignored)} names a class: data.classes={count} are 0 to "
            f"{count - 1}."
        )
    return Classes(tuple(map(str, kept)), kept, tuple(ignored))


def decode_label_map(encoded: bytes, name: str) -> np.ndarray:
    """Stored ids, uint8 or uint16 [H, W], of a map in grey or with a palette.

    Colours of a palette are not looked at. Grey samples of fewer than 8 bits, which decoders
    stretch over 0 to 255, are what is stored again.

    Args:
      encoded: the file's bytes.
      name: what to call the map in an error.

    Raises:
      BadImage: damaged, or in colours.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"more than {MOST_PIXELS} pixels")
            mode, ids = image.mode, np.asarray(image)
        if mode == "1":
            return ids.astype(np.uint8)
        if mode not in ("L", "P", "I", "I;16"):
            raise ValueError(f"a map of labels in mode {mode}, where one number a pixel is meant")
        if mode == "L" and encoded.startswith(PNG_START):
            bits = read_png_header(encoded).bits
            ids = ids // (255 // (2**bits - 1)) if bits < 8 else ids
        if ids.min(initial=0) < 0 or ids.max(initial=0) >= _IDS:
            raise ValueError("labels below 0 or above 65535")
        return ids if ids.dtype == np.uint8 else ids.astype(np.uint16)
    except Exception as error:  # decoders raise whatever their parsers raise
        reason = str(error).split("(<")[0].split("<_io")[0].strip() or type(error).__name__
        raise BadImage(name, reason) from None


def palette(count: int) -> np.ndarray:
    """Colours of VOC's development kit (VOCdevkit, VOClabelcolormap): uint8 [count, 3].

    The bits of a class number, spread over the channels from the highest bit down: neighbours in
    the list are far apart in colour.
    """
    numbers = np.arange(count)
    colours = np.zeros((count, 3), np.int64)
    for level in range(8):
        for channel in range(3):
            colours[:, channel] |= ((numbers >> (3 * level + channel)) & 1) << (7 - level)
    return colours.astype(np.uint8)
