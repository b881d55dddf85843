"""The chunks of a PNG that its decoders pass over or stumble on."""

import dataclasses
from collections.abc import Iterator

PNG_START = b"\x89PNG\r\n\x1a\n"
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")
_GREY = (0, 4)  # colour types
_WITH_ALPHA = (4, 6)


@dataclasses.dataclass(frozen=True)
class PngHeader:
    """What a PNG says of itself before its pixels.

    Attributes:
      height: in pixels.
      width: in pixels.
      bits: of a sample, 1 to 16.
      significant: bits of a sample that mean something, by the sBIT chunk; None without one.
      grey: whether it has one channel, alpha aside.
      alpha: whether it has transparency of any kind.
      animated: whether other frames may follow the first.
    """

    height: int
    width: int
    bits: int
    significant: int | None
    grey: bool
    alpha: bool
    animated: bool


def read_png_header(encoded: bytes) -> PngHeader:
    """Reads the chunks in front of the pixels; raises ``ValueError`` where the first is cut off."""
    if encoded[12:16] != b"IHDR" or len(encoded) < 33:
        raise ValueError("a PNG without a header")
    width, height = (int.from_bytes(encoded[at : at + 4], "big") for at in (16, 20))
    bits, colour_type = encoded[24], encoded[25]
    grey = colour_type in _GREY
    found = {}
    for kind, chunk in _chunks(encoded):
        if kind == b"IDAT":
            break
        found[kind] = chunk
    significant = found.get(b"sBIT", b"")[8:-4][: 1 if grey else 3]
    return PngHeader(
        height=height,
        width=width,
        bits=bits,
        significant=max(significant, default=None),
        grey=grey,
        alpha=colour_type in _WITH_ALPHA or b"tRNS" in found,
        animated=b"acTL" in found,
    )


def without_animation(encoded: bytes) -> bytes:
    """Returns the PNG of the still image that every animated PNG carries.

    What is broken in the animation then harms nothing: some releases of OpenCV end the process
    over it.
    """
    kept = [chunk for kind, chunk in _chunks(encoded) if kind not in _ANIMATION]
    return PNG_START + b"".join(kept)


def _chunks(encoded: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields (kind, whole chunk) up to the end, or to where a chunk is cut off."""
    position = len(PNG_START)
    while position + 12 <= len(encoded):
        end = position + 12 + int.from_bytes(encoded[position : position + 4], "big")
        yield encoded[position + 4 : position + 8], encoded[position:end]
        position = end
