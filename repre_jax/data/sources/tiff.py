"""What a TIFF says of its bands, which its decoders drop, clip or stretch without a word."""

import dataclasses
import io

from PIL.TiffImagePlugin import ImageFileDirectory_v2

_BIG_TIFF = b"II+\0"  # the other byte order is not known to Pillow
TIFF_STARTS = (b"II*\0", b"MM\0*", _BIG_TIFF)

# Tags of TIFF 6.0.
_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC = 256, 257, 258, 262
_SAMPLES, _EXTRA_SAMPLES = 277, 338
# Bands that a photometric interpretation has; all others have three.
_BANDS = {0: 1, 1: 1, 3: 1, 4: 1, 5: 4}
_WHITE_IS_ZERO = 0
_GREY = (_WHITE_IS_ZERO, 1)
_ALPHA = (1, 2)  # associated and not


@dataclasses.dataclass(frozen=True)
class TiffHeader:
    """What the first directory of a TIFF says.

    Attributes:
      height: in pixels.
      width: in pixels.
      bits: of a sample.
      grey: whether it has one band, alpha aside.
      white_is_zero: whether that is white where it is 0.
      alpha: whether it has a band that the file calls alpha.
      unspecified: bands beyond those of the picture that the file does not explain.
      animated: whether other pictures follow the first.
    """

    height: int
    width: int
    bits: int
    grey: bool
    white_is_zero: bool
    alpha: bool
    unspecified: int
    animated: bool


def read_tiff_header(encoded: bytes) -> TiffHeader:
    """Reads the first directory; raises ``ValueError`` when there is none."""
    file = io.BytesIO(encoded)
    start = file.read(8)
    if start.startswith(_BIG_TIFF):
        start += file.read(8)
    try:
        tags = ImageFileDirectory_v2(start)
        file.seek(tags.next)
        tags.load(file)
        height, width = int(tags[_HEIGHT]), int(tags[_WIDTH])
        photometric = tags.get(_PHOTOMETRIC, 1)
        extra = tags.get(_SAMPLES, 1) - _BANDS.get(photometric, 3)
        explained = tuple(tags.get(_EXTRA_SAMPLES, ()))
        bits = max(tags.get(_BITS, (1,)))
    # Pillow's parser raises whatever it stumbles over.
    except Exception as error:
        raise ValueError(f"damaged TIFF ({error})") from None
    alpha = extra > 0 and explained[:1] in ((kind,) for kind in _ALPHA)
    return TiffHeader(
        height=height,
        width=width,
        bits=bits,
        grey=photometric in _GREY,
        white_is_zero=photometric == _WHITE_IS_ZERO,
        alpha=alpha,
        unspecified=max(0, extra - alpha),
        animated=tags.next != 0,
    )
