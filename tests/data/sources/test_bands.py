"""Images of other channels than a picture's, and values that keep their 16 bits in a range."""

import io

import numpy as np
import pytest
import tifffile
from folders import folder_config
from ml_collections import ConfigDict
from PIL import Image

from repre_jax.data.pixel_format import PixelFormat, pixel_format
from repre_jax.data.sources import open_source
from repre_jax.data.sources.decode import BadImage, decode_image
from repre_jax.data.sources.survey import check_normalised, survey
from repre_jax.errors import UserError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 4096, (6, 8), np.uint16)
BANDS = RNG.integers(0, 4096, (6, 8, 5), np.uint16)
RANGE = (0.0, 4095.0)


def png(pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def tiff(pixels, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def in_range(values, ends=RANGE):
    shares = (values.astype(np.float64) - ends[0]) / (ends[1] - ends[0])
    return np.rint(shares.clip(0, 1) * 65535).astype(np.uint16)


@pytest.mark.parametrize("encode", [png, tiff])
def test_twelve_bits_in_sixteen_fill_their_range(encode):
    decoded = decode_image(encode(GREY), "x", PixelFormat(1, RANGE))
    assert decoded.dtype == np.uint16 and decoded.max() > 60_000
    np.testing.assert_array_equal(decoded[..., 0], in_range(GREY))
    three = decode_image(encode(GREY), "x", PixelFormat(3, RANGE))
    np.testing.assert_array_equal(three, np.repeat(decoded, 3, axis=2))


@pytest.mark.parametrize(
    "encoded",
    [
        tiff(BANDS, photometric="minisblack", planarconfig="contig"),
        tiff(BANDS.transpose(2, 0, 1), photometric="minisblack", planarconfig="separate"),
        tiff(BANDS.transpose(2, 0, 1), photometric="minisblack"),
        tiff(BANDS.transpose(2, 0, 1), imagej=True, metadata={"axes": "CYX"}),
    ],
    ids=["side by side", "planes", "pages", "ImageJ"],
)
def test_bands_of_a_tiff(encoded):
    decoded = decode_image(encoded, "x", PixelFormat(5, RANGE))
    np.testing.assert_array_equal(decoded, in_range(BANDS))


def test_bands_without_a_range_are_levels():
    decoded = decode_image(tiff(BANDS, planarconfig="contig"), "x", PixelFormat(5))
    np.testing.assert_allclose(decoded, BANDS * (255 / 4095), atol=0.51)


def test_floats_below_and_above_a_range_are_cut_off():
    values = np.float32([[-2000, -1000, 0], [1000, 3000, 9000]])
    decoded = decode_image(tiff(values), "x", PixelFormat(1, (-1000, 3000)))
    np.testing.assert_array_equal(decoded[..., 0], [[0, 0, 16384], [32768, 65535, 65535]])


def test_a_person_would_see_the_same():
    colours = RNG.integers(0, 256, (6, 8, 4), np.uint8)
    luma = np.asarray(Image.fromarray(colours[..., :3]).convert("L")).astype(int)
    for pixels, scale in ((PixelFormat(1), 1), (PixelFormat(1, (0, 255)), 257)):
        for kind in (colours, colours[..., :3]):
            decoded = decode_image(png(kind), "x", pixels)
            assert decoded.shape == (6, 8, 1)
            assert np.abs(decoded[..., 0].astype(int) - scale * luma).max() <= scale
    ranged = decode_image(png(colours), "x", PixelFormat(3, (0, 255)))
    np.testing.assert_array_equal(ranged, colours[..., :3] * np.uint16(257))
    np.testing.assert_array_equal(decode_image(png(colours), "x", PixelFormat(4)), colours)


@pytest.mark.parametrize(
    ("encoded", "pixels", "reason"),
    [
        (tiff(BANDS, planarconfig="contig"), PixelFormat(4), "5 channel.s., and model.channels"),
        (png(np.zeros((6, 8, 3), np.uint8)), PixelFormat(5), "3 channel.s., and model.channels"),
        (tiff(np.float32([[0, np.nan]])), PixelFormat(1, RANGE), "not a number"),
        (tiff(np.zeros((2, 3), np.complex64)), PixelFormat(1, RANGE), "type complex64"),
        (tiff(np.zeros((2, 6, 8), np.uint8)), PixelFormat(7), "1 channel.s., and model.channels"),
        (tiff(GREY)[:-20], PixelFormat(1, RANGE), None),
        (png(GREY)[:60], PixelFormat(1, RANGE), None),
    ],
)
def test_what_does_not_fit_is_a_bad_image(encoded, pixels, reason):
    with pytest.raises(BadImage, match=reason):
        decode_image(encoded, "x", pixels)


def test_an_image_of_too_many_values_is_refused(monkeypatch):
    monkeypatch.setattr("repre_jax.data.sources.decode.MOST_PIXELS", 40)
    with pytest.raises(BadImage, match="more than"):
        decode_image(tiff(BANDS, planarconfig="contig"), "x", PixelFormat(5))


@pytest.mark.parametrize(
    ("ends", "channels", "told"),
    [
        ((4095, 0), 3, "must be two numbers"),
        ((0,), 3, "must be two numbers"),
        (((1, 2), 3), 3, "must be two numbers"),
        (("a", "b"), 3, "must be two numbers"),
        ((0, float("inf")), 3, "must be two numbers"),
        (None, 513, "between 1 and 512"),
    ],
)
def test_formats_that_cannot_be(ends, channels, told):
    with pytest.raises(UserError, match=told):
        pixel_format(ConfigDict({"range": ends}), channels)


def bands_folder(tmp_path, count=4, values=BANDS):
    for number in range(count):
        encoded = tiff(np.roll(values, number, 0), photometric="minisblack", planarconfig="contig")
        (tmp_path / f"{number}.tif").write_bytes(encoded)
    return folder_config(tmp_path, range=RANGE)


def test_channels_without_usual_numbers_are_measured(tmp_path):
    source = open_source(bands_folder(tmp_path), "train", 5)
    config = ConfigDict({"model": {"normalise": True}, "data": {"mean": None, "std": None}})
    shares = BANDS.reshape(-1, 5) / 4095
    mean = ",".join(f"{x:.4f}" for x in shares.mean(axis=0))
    with pytest.raises(UserError, match=rf"mean='\({mean}\)'.* of 4 of image folder"):
        check_normalised(config, source)
    config.model.normalise = False
    check_normalised(config, source)


def test_cached_they_keep_their_format(tmp_path):
    config = bands_folder(tmp_path)
    source = open_source(config, "train", 5)
    np.testing.assert_array_equal(source.read(1), in_range(np.roll(BANDS, 1, 0)))
    with config.unlocked():
        config.update({"cache_size": 99, "cache_path": str(tmp_path / "cache")})
    cached = open_source(config, "train", 5)
    np.testing.assert_array_equal(cached.read(1), source.read(1))
    config.range = None
    levels = open_source(config, "train", 5).read(1)
    assert levels.dtype == np.uint8, "another format is another cache"
    np.testing.assert_allclose(levels, source.read(1) / 257, atol=1)


def test_a_range_that_does_not_fit_is_told(tmp_path):
    config = bands_folder(tmp_path)
    with config.unlocked():
        config.range = (0, 65535)
    said = " ".join(survey(open_source(config, "train", 5)))
    assert "4 of the 4 images looked at: values fill less than an eighth of data.range." in said
    config.range = (0, 100)
    said = " ".join(survey(open_source(config, "train", 5)))
    assert "more than 10% of the values lie at or beyond data.range" in said
