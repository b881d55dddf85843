"""Every odd kind of image, made by hand, and every way in which a file can be broken."""

import io
import pickle

import cv2
import numpy as np
import pytest
from PIL import Image

from repre_jax.data.sources.decode import BadImage, decode_image

RED, GREEN, BLUE, YELLOW = (220, 30, 40), (30, 200, 60), (40, 60, 210), (230, 220, 50)


def quadrants(height=48, width=64) -> np.ndarray:
    """Red | green over blue | yellow: any flip, turn or channel swap shows."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = RED
    pixels[: height // 2, width // 2 :] = GREEN
    pixels[height // 2 :, : width // 2] = BLUE
    pixels[height // 2 :, width // 2 :] = YELLOW
    return pixels


def encoded(image, kind: str, **options) -> bytes:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def corners(pixels: np.ndarray) -> np.ndarray:
    return pixels[[4, 4, -5, -5], [4, -5, 4, -5]].astype(int)


def assert_quadrants(pixels: np.ndarray, tolerance=3):
    assert pixels.dtype == np.uint8 and pixels.shape == (48, 64, 3)
    np.testing.assert_allclose(corners(pixels), [RED, GREEN, BLUE, YELLOW], atol=tolerance)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("BMP", {}),
        ("TIFF", {}),
        ("GIF", {}),
    ],
)
def test_formats(kind, options):
    assert_quadrants(decode_image(encoded(quadrants(), kind, **options), "x"))


def test_colour_modes():
    image = Image.fromarray(quadrants())
    transparent = image.convert("RGBA")
    transparent.putalpha(0)
    for variant in [image.quantize(16), image.convert("RGBA"), transparent]:
        assert_quadrants(decode_image(encoded(variant, "PNG"), "x"))
    palette_with_hole = encoded(image.quantize(16), "PNG", transparency=0)
    assert_quadrants(decode_image(palette_with_hole, "x"))
    assert_quadrants(decode_image(encoded(image.convert("CMYK"), "JPEG", quality=95), "x"))


def test_grey_becomes_three_equal_channels():
    grey = np.tile(np.arange(0, 256, 4, np.uint8), (48, 1))
    for kind in ("PNG", "TIFF", "BMP"):
        pixels = decode_image(encoded(grey, kind), "x")
        np.testing.assert_array_equal(pixels, np.repeat(grey[..., None], 3, -1))
    pixels = decode_image(encoded(Image.fromarray(grey).convert("LA"), "PNG"), "x")
    np.testing.assert_array_equal(pixels, np.repeat(grey[..., None], 3, -1))
    one_bit = decode_image(encoded(Image.fromarray(grey > 127), "PNG"), "x")
    np.testing.assert_array_equal(one_bit[0, :, 1], np.where(grey[0] > 127, 255, 0))
    jpeg = decode_image(encoded(grey, "JPEG", quality=95), "x")
    assert np.abs(jpeg.astype(int) - grey[..., None]).max() <= 4


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bits_are_scaled_not_clipped(suffix):
    colour = quadrants().astype(np.uint16) * 257
    _, data = cv2.imencode(suffix, np.ascontiguousarray(colour[..., ::-1]))
    assert_quadrants(decode_image(data.tobytes(), "x"), tolerance=1)
    _, data = cv2.imencode(suffix, colour[..., 0])
    np.testing.assert_allclose(
        decode_image(data.tobytes(), "x"), np.repeat(quadrants()[..., :1], 3, -1), atol=1
    )


# EXIF orientation n says how the stored pixels must be turned to stand upright, so store the
# upright picture under the inverse turn.
UNTURN = {
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: np.swapaxes(x, 0, 1),
    6: lambda x: np.rot90(x, 1),
    7: lambda x: np.swapaxes(np.rot90(x, 2), 0, 1),
    8: lambda x: np.rot90(x, -1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(UNTURN[orientation](quadrants()))
    options = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    assert_quadrants(decode_image(encoded(stored, kind, exif=exif, **options), "x"))


def test_one_pixel():
    for kind in ("PNG", "JPEG", "BMP"):
        assert decode_image(encoded(np.full((1, 1, 3), 9, np.uint8), kind), "x").shape == (1, 1, 3)


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("BMP", {})],
)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.98])
def test_truncated_images_are_bad_not_half_grey(kind, options, share):
    whole = encoded(noise(), kind, **options)
    assert decode_image(whole, "x").shape == (100, 100, 3)
    with pytest.raises(BadImage):
        decode_image(whole[: int(len(whole) * share)], "x")


def test_interrupted_jpeg_padded_with_zeros_is_bad():
    whole = encoded(noise(), "JPEG")
    half = whole[: len(whole) // 2]
    with pytest.raises(BadImage, match="truncated"):
        decode_image(half + bytes(len(whole) - len(half)), "x")


def test_truncated_jpeg_whose_thumbnail_is_whole_is_bad():
    # A thumbnail's own end marker, in the header, says nothing of the image.
    thumbnail = encoded(noise()[:8, :8], "JPEG")
    whole = encoded(noise(), "JPEG", exif=b"Exif\0\0" + thumbnail)
    assert whole.index(b"\xff\xd9") < len(whole) // 2
    half = whole[: len(whole) // 2]
    with pytest.raises(BadImage, match="truncated"):
        decode_image(half + bytes(len(whole) - len(half)), "x")


def test_jpeg_with_something_behind_its_end_is_fine():
    assert_quadrants(decode_image(encoded(quadrants(), "JPEG", quality=95) + b"a video", "x"))


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", bytes(1000)])
def test_no_image_at_all(data):
    with pytest.raises(BadImage) as caught:
        decode_image(data, "some/path.jpg")
    assert str(caught.value).startswith("some/path.jpg: ") and caught.value.reason


def test_bad_image_survives_the_way_from_a_worker():
    error = pickle.loads(pickle.dumps(BadImage("a.jpg", "empty")))
    assert (error.path, error.reason) == ("a.jpg", "empty")
