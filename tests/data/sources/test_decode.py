"""Every odd kind of image, made by hand, and every way in which a file can be broken."""

import io
import pickle
import threading
import zlib

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image, TiffImagePlugin

from repre_jax.data.sources.decode import MOST_PIXELS, BadImage, decode_image

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


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def sixteen_bit_png(pixels: np.ndarray, significant: int | None = None) -> bytes:
    """A PNG of these uint16 [H, W] or [H, W, 3], with an sBIT chunk where asked for."""
    _, data = cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    data = data.tobytes()
    if significant is None:
        return data
    channels = 3 if pixels.ndim == 3 else 1
    return data[:33] + png_chunk(b"sBIT", bytes([significant] * channels)) + data[33:]


@pytest.mark.parametrize(
    ("brightest", "significant", "expected"),
    [
        (4095, None, 255),  # nothing said, and nothing above 12 bits
        (4096, None, 16),
        (2047, None, 127),
        (1023, 10, 255),
        (4095, 12, 255),
        (4095, 16, 15),  # a dark image that is said to have all 16 bits
        (65535, 12, 255),  # 12 bits that the writer has scaled to 16, as the standard asks
    ],
)
@pytest.mark.parametrize("colour", [False, True])
def test_significant_bits_of_a_sixteen_bit_png(brightest, significant, expected, colour):
    shape = (6, 8, 3) if colour else (6, 8)
    pixels = np.zeros(shape, np.uint16)
    pixels[2:] = brightest
    decoded = decode_image(sixteen_bit_png(pixels, significant), "x")
    assert decoded.shape == (6, 8, 3) and (decoded[:2] == 0).all()
    assert (decoded[2:] == expected).all()


def test_colours_of_twelve_bits_stay_colours():
    pixels = np.rint(quadrants() * (4095 / 255)).astype(np.uint16)
    assert_quadrants(decode_image(sixteen_bit_png(pixels), "x"), tolerance=0)


@pytest.mark.parametrize("colour", [False, True])
def test_float_tiff_from_zero_to_one_is_not_black(colour):
    pixels = np.zeros((6, 8, 3) if colour else (6, 8), np.float32)
    pixels[2:], pixels[4:] = 0.5, 1.0
    for scale in (1, 255):  # levels stored as floats are levels
        _, data = cv2.imencode(".tiff", pixels * np.float32(scale))
        decoded = decode_image(data.tobytes(), "x")
        assert decoded.shape == (6, 8, 3)
        assert decoded[[0, 2, 4], 3, 1].tolist() == [0, 128, 255]


@pytest.mark.parametrize("value", [-0.5, 300.0, float("nan")])
def test_floats_that_are_no_levels_are_bad(value):
    pixels = np.full((6, 8), 0.5, np.float32)
    pixels[3, 3] = value
    _, data = cv2.imencode(".tiff", pixels)
    with pytest.raises(BadImage, match="floats from"):
        decode_image(data.tobytes(), "x")


def test_thirty_two_bit_integers_are_bad():
    with pytest.raises(BadImage, match="int32"):
        decode_image(encoded(np.full((6, 8), 70_000, np.int32), "TIFF"), "x")


@pytest.mark.parametrize("big", [False, True])
def test_tiff_of_either_kind_and_of_several_pages(big):
    remarks = set()
    pages = [Image.fromarray(x) for x in (quadrants(), quadrants()[::-1].copy())]
    data = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:], big_tiff=big)
    assert_quadrants(decode_image(data, "x", remarks=remarks))
    assert remarks == {"several frames or pages, of which the first is read"}


def tiff(
    bands: int, extra: tuple[int, ...] | None, photometric: int = 2, dtype: type = np.uint8
) -> bytes:
    """An uncompressed TIFF whose band b is 40 (b + 1) of 255 everywhere."""
    pixels = np.empty((6, 8, bands), dtype)
    pixels[:] = 40 * (np.arange(bands) + 1) * (np.iinfo(dtype).max // 255)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[256], tags[257], tags[258], tags[259] = 8, 6, (8 * pixels.itemsize,) * bands, 1
    tags[262], tags[277], tags[278] = photometric, bands, 6
    tags[273], tags[279] = 0, pixels.nbytes  # Pillow adds where the directory ends
    if extra is not None:
        tags[338] = extra
    file = io.BytesIO()
    file.write(b"II*\0" + (8).to_bytes(4, "little"))
    file.write(tags.tobytes(8))
    file.write(pixels.tobytes())
    return file.getvalue()


def test_tiff_alpha_is_dropped_when_the_file_calls_it_alpha():
    assert (decode_image(tiff(3, None), "x") == (40, 80, 120)).all()
    assert (decode_image(tiff(4, (2,)), "x") == (40, 80, 120)).all()
    # Colours multiplied by an alpha of 160: the multiplication is undone.
    expected = np.array([40, 80, 120]) * 255 / 160
    np.testing.assert_allclose(decode_image(tiff(4, (1,)), "x")[0, 0], expected, atol=1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_tiff_whose_zero_is_white(dtype):
    assert (decode_image(tiff(1, None, 1, dtype), "x") == 40).all()
    assert (decode_image(tiff(1, None, 0, dtype), "x") == 255 - 40).all()


@pytest.mark.parametrize(
    ("bands", "extra", "photometric"),
    [(4, None, 2), (4, (0,), 2), (5, (0, 0), 2), (5, (2, 0), 2), (4, (0, 0, 0), 1)],
)
def test_tiff_bands_that_nobody_explains_are_bad(bands, extra, photometric):
    with pytest.raises(BadImage, match="more bands"):
        decode_image(tiff(bands, extra, photometric), "x")


def without_adobe_marker(jpeg: bytes) -> bytes:
    start = jpeg.index(b"\xff\xee")
    return jpeg[:start] + jpeg[start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big") :]


def test_cmyk_and_ycck_without_their_marker():
    image = Image.fromarray(quadrants()).convert("CMYK")
    cmyk = encoded(image, "JPEG", quality=95)
    inverted = np.ascontiguousarray(255 - np.asarray(image))  # as Adobe stores it
    ycck = simplejpeg.encode_jpeg(inverted, 95, "CMYK", "420")
    for jpeg in (cmyk, ycck):
        bare = without_adobe_marker(jpeg)
        assert b"Adobe" in jpeg and b"Adobe" not in bare
        expected = decode_image(jpeg, "x")
        assert_quadrants(expected, tolerance=8)
        np.testing.assert_array_equal(decode_image(bare, "x"), expected)
        part = bare[:-200] + b"\xff\xd9"
        with pytest.raises(BadImage, match="truncated"):
            decode_image(part, "x")


FRAMES = [Image.fromarray(np.ascontiguousarray(x)) for x in (quadrants(), quadrants()[::-1])]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation(kind):
    options = {} if kind == "GIF" else {"lossless": True} if kind == "WEBP" else {}
    remarks = set()
    data = encoded(FRAMES[0], kind, save_all=True, append_images=FRAMES[1:], **options)
    assert_quadrants(decode_image(data, "x", remarks=remarks))
    assert remarks == {"several frames or pages, of which the first is read"}


def animated_png() -> dict[bytes, bytes]:
    """The chunks of an animation, in order; each kind once, but for fcTL: the second as fcTL2."""
    data = encoded(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:])
    chunks, position = {}, 8
    while position < len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        kind = data[position + 4 : position + 8]
        chunks[kind + b"2" if kind in chunks else kind] = data[position + 8 : end - 4]
        position = end
    return chunks


def png_of(chunks: dict[bytes, bytes]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(k[:4], x) for k, x in chunks.items())


@pytest.mark.parametrize(
    "broken",
    [
        {b"fcTL": b""},
        {b"acTL": b"\0"},
        {b"acTL": bytes(8)},
        {b"fdAT": b"\0\0\0\2garbage"},
        {b"fcTL2": b"\xff" * 26},
    ],
)
def test_broken_animation_leaves_the_still_image_of_a_png(broken):
    chunks = animated_png()
    assert set(broken) <= set(chunks)
    assert_quadrants(decode_image(png_of(chunks | broken), "x"), tolerance=0)


def test_animated_png_whose_still_image_is_broken_is_bad():
    # OpenCV 4.12 ends the process over this one (its issue 27744).
    wrong_filter = zlib.compress(b"\xfa" * (48 * (1 + 64 * 3)))
    with pytest.raises(BadImage):
        decode_image(png_of(animated_png() | {b"IDAT": wrong_filter}), "x")


def huge(kind: str) -> bytes:
    """A small file whose header speaks of 30,000 x 30,000 pixels."""
    side, pixels = 30_000, np.zeros((8, 8, 3), np.uint8)
    data = bytearray(encoded(pixels, kind))
    if kind == "PNG":
        data[16:24] = side.to_bytes(4, "big") * 2
    elif kind == "JPEG":
        start = data.index(b"\xff\xc0")
        data[start + 5 : start + 9] = side.to_bytes(2, "big") * 2
    elif kind == "BMP":
        data[18:26] = side.to_bytes(4, "little") * 2
    elif kind == "GIF":
        data[6:10] = side.to_bytes(2, "little") * 2
    elif kind == "TIFF":
        for tag in (256, 257):
            start = data.index(tag.to_bytes(2, "little") + (4).to_bytes(2, "little"))
            data[start + 8 : start + 12] = side.to_bytes(4, "little")
    return bytes(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "TIFF"])
def test_size_is_bounded_before_anything_is_decoded(kind, monkeypatch):
    def never(*unused, **unused_too):
        raise AssertionError("the pixels were decoded")

    monkeypatch.setattr(cv2, "imdecode", never)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", never)
    with pytest.raises(BadImage, match=r"30000 x 30000|900000000") as caught:
        decode_image(huge(kind), "x")
    assert str(MOST_PIXELS) in caught.value.reason


@pytest.mark.parametrize("shape", [(1, 20_000), (20_000, 1)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP"])
def test_strips_one_pixel_wide(shape, kind):
    assert decode_image(encoded(np.zeros((*shape, 3), np.uint8), kind), "x").shape == (*shape, 3)


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


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_without_its_middle_is_bad_on_every_thread(progressive):
    whole = encoded(noise(), "JPEG", progressive=progressive)
    damaged = whole[: len(whole) // 2] + whole[-2:]
    reasons = []

    def decode():
        for _ in range(20):
            try:
                decode_image(damaged, "x")
            except BadImage as error:
                reasons.append(error.reason)

    threads = [threading.Thread(target=decode) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reasons) == 80 and len(set(reasons)) == 1
    assert reasons[0].startswith("truncated or damaged JPEG")


def test_jpeg_with_a_lost_restart_interval_is_bad():
    whole = encoded(noise(), "JPEG", restart_marker_rows=1)
    cut = whole.index(b"\xff\xd2"), whole.index(b"\xff\xd4")
    with pytest.raises(BadImage, match="damaged"):
        decode_image(whole[: cut[0]] + whole[cut[1] :], "x")


def test_oddities_that_harm_no_pixel_of_a_jpeg():
    whole = encoded(noise(), "JPEG")
    expected = decode_image(whole, "x")
    tables = whole.index(b"\xff\xdb")
    for odd in (
        whole + b"a video",
        whole + bytes(100),
        whole[:-2] + b"\0\0\0" + whole[-2:],  # "extraneous bytes before marker 0xd9"
        whole[:tables] + b"\0\0" + whole[tables:],
        whole[:tables] + b"\xff\xff" + whole[tables:],  # fill bytes
    ):
        np.testing.assert_array_equal(decode_image(odd, "x"), expected)


def test_oddity_in_the_header_hides_no_missing_end():
    whole = encoded(noise(), "JPEG")
    tables = whole.index(b"\xff\xdb")
    with pytest.raises(BadImage, match="truncated"):
        decode_image(whole[:tables] + b"\0\0" + whole[tables : len(whole) // 2], "x")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_jpeg_with_exif_that_cannot_be_read_is_decoded_as_it_lies():
    for exif in (b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0garbage" * 9):
        assert_quadrants(decode_image(encoded(quadrants(), "JPEG", quality=95, exif=exif), "x"))


def test_jpeg_cut_inside_its_header_is_bad():
    whole = encoded(noise(), "JPEG")
    for share in (0.01, 0.02, 0.03):
        with pytest.raises(BadImage):
            decode_image(whole[: int(len(whole) * share)] + b"\xff\xd9", "x")


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", bytes(1000)])
def test_no_image_at_all(data):
    with pytest.raises(BadImage) as caught:
        decode_image(data, "some/path.jpg")
    assert str(caught.value).startswith("some/path.jpg: ") and caught.value.reason


def test_bad_image_survives_the_way_from_a_worker():
    error = pickle.loads(pickle.dumps(BadImage("a.jpg", "empty")))
    assert (error.path, error.reason) == ("a.jpg", "empty")
