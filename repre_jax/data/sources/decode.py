"""From the bytes of an image file to upright uint8 RGB pixels, or a clear reason why not."""

import io
import warnings

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from repre_jax.data.pixel_format import RGB, PixelFormat
from repre_jax.data.sources.bands import png_samples, tiff_samples, to_channels, to_levels
from repre_jax.data.sources.formats import register_heif
from repre_jax.data.sources.jpeg import JPEG_START, decode_jpeg
from repre_jax.data.sources.levels import eight_bits
from repre_jax.data.sources.png import PNG_START, read_png_header, without_animation
from repre_jax.data.sources.tiff import TIFF_STARTS, read_tiff_header

# Of one image. What Pillow itself refuses, held for every decoder: half a gigabyte as RGB.
MOST_PIXELS = 2 * Image.MAX_IMAGE_PIXELS
_GREY = "grey, read as three equal channels"

# OpenCV forgets how an AVIF is turned and the largest value of a PNM, which Pillow calls PPM,
# takes 12 bits in samples of 16 of a JPEG 2000 for 16, and knows no HEIF.
_NOT_OPENCV = ("AVIF", "HEIF", "JPEG2000", "PPM")

# Bad images are reported by name through BadImage; these lines about them name no file.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", message="Corrupt EXIF data")  # the pixels are whole


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


def decode_image(
    encoded: bytes,
    name: str,
    pixels: PixelFormat = RGB,
    remarks: set[str] | None = None,
) -> np.ndarray:
    """Decodes any common image format as a person would see it, or band by band as it is stored.

    The EXIF orientation is applied, grey and palette images become RGB, CMYK is converted, and
    an alpha channel is dropped as torchvision's folder loader does. Samples of 16 bits, or 12 in
    16, and floats become 8 bits as ``levels.eight_bits`` says. Of several pictures in one file
    the first is taken. simplejpeg decodes JPEG, OpenCV all else; Pillow is asked only about what
    they refuse.

    Args:
      encoded: the file's bytes.
      name: what to call the image in an error.
      pixels: the format wanted. With a range, or a number of channels that no picture has, the
        stored values are read, band by band.
      remarks: to be filled with what a person may not expect of this image, in a few words each.

    Returns:
      [H, W, C] of ``pixels.dtype``; RGB, where C is 3.

    Raises:
      BadImage: the bytes are empty, truncated, damaged or no image, more than ``MOST_PIXELS``,
        or hold bands or samples that no rule above covers.
    """
    if not encoded:
        raise BadImage(name, "the file is empty")
    remarks = set() if remarks is None else remarks
    try:
        if not pixels.as_seen:
            return _decode_bands(encoded, pixels, remarks)
        colours = _decode_colours(encoded, remarks)
        if pixels.channels == 3:
            return colours
        if _GREY in remarks:
            remarks.remove(_GREY)
        else:
            remarks.add("in colours, of which the luma is read")
        return cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY)[..., None]
    # Pillow's decoders raise whatever their format's parser raises (OSError, SyntaxError,
    # ValueError, struct.error, DecompressionBombError, ...): all of them mean "bad image".
    except Exception as error:
        reason = str(error).split("(<")[0].split("<_io")[0].strip() or type(error).__name__
        raise BadImage(name, reason) from None


def _decode_colours(encoded: bytes, remarks: set[str]) -> np.ndarray:
    """uint8 [H, W, 3] of any common format."""
    if encoded.startswith(JPEG_START):
        return _decode_jpeg(encoded, remarks)
    if encoded.startswith(PNG_START):
        return _decode_png(encoded, remarks)
    if encoded.startswith(TIFF_STARTS):
        return _decode_tiff(encoded, remarks)
    return _decode_other(encoded, remarks)


def _decode_bands(encoded: bytes, pixels: PixelFormat, remarks: set[str]) -> np.ndarray:
    """[H, W, C] of ``pixels.dtype``."""
    if encoded.startswith(PNG_START):
        header = read_png_header(encoded)
        _check_size(header.height, header.width)
        samples = png_samples(encoded, header.animated)
    elif encoded.startswith(TIFF_STARTS):
        samples = tiff_samples(encoded, pixels.channels, MOST_PIXELS * max(3, pixels.channels))
    else:
        samples = _decode_colours(encoded, remarks)
    samples = to_channels(samples, pixels.channels)
    if pixels.range is None:
        return _levels(samples, None, remarks)
    return to_levels(samples, pixels.range)


def _decode_jpeg(encoded: bytes, remarks: set[str]) -> np.ndarray:
    try:
        height, width, colours, subsampling = simplejpeg.decode_jpeg_header(encoded, strict=False)
    # Damaged, or of a kind that only another decoder may know; KeyError where nothing is known.
    except (ValueError, KeyError):
        return _decode_with_pillow(encoded, remarks)
    _check_size(height, width)
    _remark(remarks, grey=colours == "Gray")
    pixels = decode_jpeg(encoded, colours, subsampling)
    return _decode_with_pillow(encoded, remarks) if pixels is None else pixels


def _decode_png(encoded: bytes, remarks: set[str]) -> np.ndarray:
    header = read_png_header(encoded)
    _check_size(header.height, header.width)
    _remark(remarks, grey=header.grey, alpha=header.alpha, animated=header.animated)
    if header.animated:
        encoded = without_animation(encoded)
    deep = cv2.IMREAD_ANYDEPTH if header.bits == 16 else 0
    samples = _decode_with_opencv(encoded, cv2.IMREAD_COLOR_RGB | deep)
    if samples is None:
        return _decode_with_pillow(encoded, remarks)
    return _levels(samples, header.significant if deep else None, remarks)


def _decode_tiff(encoded: bytes, remarks: set[str]) -> np.ndarray:
    header = read_tiff_header(encoded)
    _check_size(header.height, header.width)
    if header.unspecified:
        raise ValueError(
            f"a TIFF with {header.unspecified} more bands than a picture has, of which it does "
            "not say what they are"
        )
    _remark(remarks, grey=header.grey, alpha=header.alpha, animated=header.animated)
    if header.bits <= 8:
        # OpenCV drops alpha after it multiplied the colours by it; Pillow undoes that where done.
        decode = _decode_with_pillow if header.alpha else _decode_plain
        return decode(encoded, remarks)
    # As they are stored: to RGB, OpenCV 5.0 refuses deep grey and makes noise of deep colour.
    samples = _decode_with_opencv(encoded, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)
    if samples is None:
        pixels = _decode_with_pillow(encoded, remarks)
    else:
        levels = _levels(samples, header.bits if header.bits < 16 else None, remarks)
        grey = levels.ndim == 2
        pixels = cv2.cvtColor(levels, cv2.COLOR_GRAY2RGB if grey else cv2.COLOR_BGR2RGB)
    # Both decoders turn such samples round, but no deep ones.
    return 255 - pixels if header.white_is_zero else pixels


def _decode_other(encoded: bytes, remarks: set[str]) -> np.ndarray:
    register_heif()
    with Image.open(io.BytesIO(encoded)) as image:  # reads the header alone
        _check_size(image.height, image.width)
        _remark(
            remarks,
            grey=image.mode in ("1", "L", "LA"),
            alpha=image.has_transparency_data,
            animated=getattr(image, "is_animated", False),
        )
        decode = _decode_with_pillow if image.format in _NOT_OPENCV else _decode_plain
    return decode(encoded, remarks)


def _decode_plain(encoded: bytes, remarks: set[str]) -> np.ndarray:
    pixels = _decode_with_opencv(encoded, cv2.IMREAD_COLOR_RGB)
    return _decode_with_pillow(encoded, remarks) if pixels is None else pixels


def _decode_with_opencv(encoded: bytes, flags: int) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    except cv2.error:
        return None


def _decode_with_pillow(encoded: bytes, remarks: set[str]) -> np.ndarray:
    with Image.open(io.BytesIO(encoded)) as image:
        upright = ImageOps.exif_transpose(image)
        if image.format == "PPM" and upright.mode == "I":  # scaled to 16 bits, whatever it had
            levels = _levels(np.asarray(upright, np.uint16), 16, remarks)
            return cv2.cvtColor(levels, cv2.COLOR_GRAY2RGB)
        # Pillow clips deep samples to 255 where it makes them RGB.
        if upright.mode in ("F", "I") or upright.mode.startswith("I;16"):
            levels = _levels(np.asarray(upright), None, remarks)
            return cv2.cvtColor(levels, cv2.COLOR_GRAY2RGB)
        return np.asarray(upright.convert("RGB"))


def _levels(samples: np.ndarray, significant: int | None, remarks: set[str]) -> np.ndarray:
    levels, bits = eight_bits(samples, significant)
    if samples.dtype == np.uint16 and bits < 16:
        remarks.add(f"{bits} bits in samples of 16, scaled to 8")
    return levels


def _check_size(height: int, width: int) -> None:
    if height * width > MOST_PIXELS:
        raise ValueError(
            f"{height} x {width} pixels, more than the {MOST_PIXELS} that are read of one image"
        )


def _remark(remarks: set[str], *, grey: bool, alpha: bool = False, animated: bool = False) -> None:
    if grey:
        remarks.add(_GREY)
    if alpha:
        remarks.add("an alpha channel, which is dropped")
    if animated:
        remarks.add("several frames or pages, of which the first is read")
