"""From the bytes of an image file to upright uint8 RGB pixels, or a clear reason why not."""

import io

import cv2
import numpy as np
from PIL import Image, ImageOps

# The first two bytes and the last two of every JPEG.
_JPEG_START = b"\xff\xd8"
_JPEG_END = b"\xff\xd9"
_JPEG_START_OF_SCAN = 0xDA

# Bad images are reported by name through BadImage; OpenCV's own lines about them name no file.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class BadImage(Exception):
    """An image that cannot be used.

    Attributes:
      path: name of the image, a path or a record id.
      reason: why it cannot be read, in a few words.
    """

    def __init__(self, path: str, reason: str):
        super().__init__(path, reason)  # both, so that the exception survives pickling
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def decode_image(encoded: bytes, name: str) -> np.ndarray:
    """Decodes any common image format as a person would see it.

    The EXIF orientation is applied, grey and palette images become RGB, 16 bits become 8,
    CMYK is converted, and an alpha channel is dropped as torchvision's folder loader does.
    OpenCV decodes; Pillow is asked only about what OpenCV refuses.

    Args:
      encoded: the file's bytes.
      name: what to call the image in an error.

    Returns:
      uint8 [H, W, 3], RGB.

    Raises:
      BadImage: the bytes are empty, truncated, or no image.
    """
    if not encoded:
        raise BadImage(name, "the file is empty")
    if encoded[:2] == _JPEG_START and not _jpeg_is_complete(encoded):
        raise BadImage(name, "truncated JPEG (its end marker is missing)")
    try:
        pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        pixels = None
    if pixels is None:
        pixels = _decode_with_pillow(encoded, name)
    return pixels


def _decode_with_pillow(encoded: bytes, name: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    # Pillow's decoders raise whatever their format's parser raises (OSError, SyntaxError,
    # ValueError, struct.error, DecompressionBombError, ...): all of them mean "bad image".
    except Exception as error:
        reason = str(error).split("(<")[0].split("<_io")[0].strip() or type(error).__name__
        raise BadImage(name, reason) from None


def _jpeg_is_complete(encoded: bytes) -> bool:
    """Whether the end marker follows the first scan.

    libjpeg paints what is missing grey and only warns, and an interrupted download may be
    padded with zeros. Compressed data cannot hold the end marker by chance (a 0xff in it is
    followed by 0x00), whereas an EXIF thumbnail in the header may: hence the walk to the scan.
    """
    if encoded.endswith(_JPEG_END):
        return True
    position = 2
    while position + 4 <= len(encoded):
        if encoded[position] != 0xFF:
            return False
        marker = encoded[position + 1]
        if marker == 0xFF:  # a fill byte before the marker
            position += 1
            continue
        length = int.from_bytes(encoded[position + 2 : position + 4], "big")
        position += 2 + length
        if marker == _JPEG_START_OF_SCAN:
            return encoded.find(_JPEG_END, position) >= 0
    return False
