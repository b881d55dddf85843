"""From the bytes of a JPEG to upright RGB pixels, or the reason why some of them are missing."""

import cv2
import numpy as np
import simplejpeg
from PIL import Image

JPEG_START = b"\xff\xd8"
_JPEG_END = b"\xff\xd9"
_START_OF_SCAN = b"\xff\xda"
_EXIF_SEGMENT = b"\xff\xe1"
_EXIF_START = b"Exif\0\0"
_EXIF_LONGEST = 65533
_EXIF_ORIENTATION = 0x0112
# Says that four channels are YCCK (its last byte, 2); everything else in it is a default.
_ADOBE_YCCK = b"\xff\xee\x00\x0eAdobe\x00\x64\0\0\0\0\x02"

# What libjpeg warns of after it painted over missing or wrong data. Its other warnings, such as
# "extraneous bytes before marker", leave every pixel as it was stored.
_DAMAGE = ("premature end", "bad huffman code", "bad arithmetic code", "instead of rst")

# What makes the pixels upright, by EXIF orientation.
_UPRIGHT = {
    2: lambda x: cv2.flip(x, 1),
    3: lambda x: cv2.rotate(x, cv2.ROTATE_180),
    4: lambda x: cv2.flip(x, 0),
    5: cv2.transpose,
    6: lambda x: cv2.rotate(x, cv2.ROTATE_90_CLOCKWISE),
    7: lambda x: cv2.rotate(cv2.transpose(x), cv2.ROTATE_180),
    8: lambda x: cv2.rotate(x, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


def decode_jpeg(encoded: bytes, colours: str, subsampling: str) -> np.ndarray | None:
    """Decodes a JPEG and notes where libjpeg had to make pixels up.

    Four channels without Adobe's marker are CMYK to libjpeg. Where two of them are stored at a
    lower resolution they can only be the chroma of YCCK; where none is, the two cannot be told
    apart. Both are taken as inverted, 255 being no ink, as browsers, Pillow and OpenCV do.

    Args:
      encoded: the file's bytes.
      colours: "RGB", "YCbCr", "Gray", "CMYK" or "YCCK", as in ``simplejpeg.decode_jpeg_header``.
      subsampling: of the chroma, as there.

    Returns:
      uint8 [H, W, 3], RGB; None where another decoder should try.

    Raises:
      ValueError: data are missing or damaged.
    """
    if colours == "CMYK" and subsampling != "444":
        encoded = JPEG_START + _ADOBE_YCCK + encoded[2:]
    try:
        return _upright(simplejpeg.decode_jpeg(encoded), encoded)
    except ValueError as error:
        warning = str(error)
    try:
        pixels = simplejpeg.decode_jpeg(encoded, strict=False)
    except ValueError:  # no warning, but something that this decoder cannot do
        return None
    # Only the first warning is passed on: behind a harmless one, look at least for the end.
    ends = encoded.rfind(_JPEG_END) > encoded.rfind(_START_OF_SCAN)
    if not ends or any(damage in warning.lower() for damage in _DAMAGE):
        raise ValueError(f"truncated or damaged JPEG ({warning})")
    return _upright(pixels, encoded)


def _upright(pixels: np.ndarray, encoded: bytes) -> np.ndarray:
    start = encoded.find(_EXIF_START)
    if start < 0 or encoded[start - 4 : start - 2] != _EXIF_SEGMENT:
        return pixels
    exif = Image.Exif()
    try:
        exif.load(encoded[start : start + _EXIF_LONGEST])
        orientation = exif.get(_EXIF_ORIENTATION)
    except Exception:  # whatever Pillow's parser stumbles over: the pixels are whole
        return pixels
    return _UPRIGHT.get(orientation, lambda x: x)(pixels)
