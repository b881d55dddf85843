"""Formats that not every installation reads: decoded where it does, told of where it does not."""

import io

import numpy as np
import pytest
from folders import folder_config, write_image
from PIL import Image, features

from repre_jax.data.sources import formats, open_source
from repre_jax.data.sources.decode import decode_image

CORNERS = [(220, 30, 40), (30, 200, 60), (40, 60, 210), (230, 220, 50)]


def quadrants() -> Image.Image:
    pixels = np.repeat(np.repeat(np.reshape(CORNERS, (2, 2, 3)), 24, 0), 32, 1)
    return Image.fromarray(pixels.astype(np.uint8))


def encoded(image, kind, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def skip_without(kind):
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    elif kind == "AVIF" and ".avif" in formats.missing_decoders():
        pytest.skip("Pillow without AVIF")
    elif kind == "JPEG2000" and not features.check("jpg_2000"):
        pytest.skip("Pillow without OpenJPEG")


@pytest.mark.parametrize(
    ("suffix", "kind", "options"),
    [
        (".avif", "AVIF", {"quality": 95}),
        (".jfif", "JPEG", {"quality": 95}),
        (".jp2", "JPEG2000", {}),
        (".j2k", "JPEG2000", {"no_jp2": True}),
        (".ppm", "PPM", {}),
        (".pnm", "PPM", {}),
        (".heic", "HEIF", {"quality": 95}),
        (".heif", "HEIF", {"quality": 95}),
    ],
)
def test_colours_of_further_formats(tmp_path, suffix, kind, options):
    skip_without(kind)
    (tmp_path / f"image{suffix.upper()}").write_bytes(encoded(quadrants(), kind, **options))
    pixels = open_source(folder_config(tmp_path), "train").read(0)
    assert pixels.shape == (48, 64, 3) and pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels[[4, 4, -5, -5], [4, -5, 4, -5]], CORNERS, atol=6)


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_turned_images_are_upright(kind):
    skip_without(kind)
    exif = Image.Exif()
    exif[0x112] = 6  # a quarter turn to the right
    pixels = decode_image(encoded(quadrants(), kind, quality=95, exif=exif.tobytes()), "x")
    assert pixels.shape == (64, 48, 3)
    expected = [CORNERS[k] for k in (2, 0, 3, 1)]
    np.testing.assert_allclose(pixels[[4, 4, -5, -5], [4, -5, 4, -5]], expected, atol=6)


@pytest.mark.parametrize(
    ("start", "samples", "kind"),
    [
        (b"P5 4 1 15\n", [0, 5, 10, 15], "u1"),
        (b"P5 4 1 1023\n", [0, 341, 682, 1023], ">u2"),
        (b"P5 4 1 65535\n", [0, 21845, 43690, 65535], ">u2"),
    ],
)
def test_the_largest_value_of_a_pgm_is_white(start, samples, kind):
    pixels = decode_image(start + np.array(samples, kind).tobytes(), "x")
    np.testing.assert_array_equal(pixels[0, :, 0], [0, 85, 170, 255])


def test_a_pbm_is_black_and_white():
    pixels = decode_image(b"P1 2 2\n0 1 1 0\n", "x")
    assert pixels[..., 0].tolist() == [[255, 0], [0, 255]]


def test_sixteen_bits_of_jpeg_2000_are_scaled():
    skip_without("JPEG2000")
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    pixels = decode_image(encoded(Image.fromarray(ramp), "JPEG2000"), "x")
    np.testing.assert_array_equal(pixels[..., 0], ramp >> 8)


def test_images_that_want_a_library_are_told_with_its_name(tmp_path, monkeypatch):
    for cached in (formats.missing_decoders, formats.image_suffixes):
        monkeypatch.setattr(formats, cached.__name__, cached.__wrapped__)
    monkeypatch.setattr(formats, "register_heif", lambda: False)
    monkeypatch.setattr("repre_jax.data.sources.folder.image_suffixes", formats.image_suffixes)
    write_image(tmp_path / "0.png")
    for name in ("1.HEIC", "2.heic", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    source = open_source(folder_config(tmp_path), "train")
    assert len(source) == 1
    where = f"of image folder {tmp_path}"
    assert source.remarks == (
        f"2 .heic images {where} are skipped; to read them: pip install 'repre_jax[heic]'.",
        f"1 other files {where} are skipped (1 .txt).",
    )
