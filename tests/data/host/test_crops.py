"""Crops as torchvision draws them, resizing as Pillow does it, and the centre view."""

import concurrent.futures
import dataclasses
import math

import numpy as np
import pytest
from PIL import Image

from repre_jax.data.host import crops as views
from repre_jax.data.host.crops import centre_view, crop_views, random_crop_box, resize
from repre_jax.data.pixel_format import PixelFormat
from repre_jax.data.recipes import RandAugment, ViewRecipe

RATIO = (3 / 4, 4 / 3)


def picture(height, width, seed=0) -> np.ndarray:
    """Smooth shading, sharp discs and some texture: the frequencies of a photograph."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    pixels = 90 + 60 * np.stack([np.sin(x / 31 + c) * np.cos(y / 23 - c) for c in range(3)], -1)
    for _ in range(25):
        centre, radius = rng.uniform(0, 1, 2) * (height, width), rng.uniform(3, height / 4)
        inside = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
        pixels[inside] = 0.4 * pixels[inside] + 0.6 * rng.uniform(0, 255, 3)
    return np.clip(pixels + rng.normal(0, 3, pixels.shape), 0, 255).astype(np.uint8)


def torchvision_box(height, width, scale, ratio, rng):
    """RandomResizedCrop.get_params, written from its description with other draws."""
    for _ in range(10):
        target_area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w = round(math.sqrt(target_area * aspect))
        h = round(math.sqrt(target_area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w
    w, h = width, height
    if width / height < min(ratio):
        h = round(w / min(ratio))
    elif width / height > max(ratio):
        w = round(h * max(ratio))
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("size", [(160, 160), (120, 400), (375, 250)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.4, 1.0), (0.05, 0.4)])
def test_crop_distribution_is_torchvisions(size, scale):
    draws, rng, other = 4000, np.random.default_rng(1), np.random.default_rng(2)
    ours = np.array([random_crop_box(*size, scale, RATIO, rng) for _ in range(draws)])
    theirs = np.array([torchvision_box(*size, scale, RATIO, other) for _ in range(draws)])
    for of in (
        lambda box: box[:, 2] * box[:, 3],
        lambda box: box[:, 3] / box[:, 2],
        lambda box: box[:, 0] / np.maximum(size[0] - box[:, 2], 1),
        lambda box: box[:, 1] / np.maximum(size[1] - box[:, 3], 1),
    ):
        a, b = np.sort(of(ours)), np.sort(of(theirs))
        points = np.concatenate([a, b])
        gap = np.searchsorted(a, points, "right") - np.searchsorted(b, points, "right")
        # Kolmogorov-Smirnov for two samples, at a false alarm in ten thousand.
        assert np.abs(gap).max() / draws < 2.23 * math.sqrt(2 / draws)


def test_crops_stay_inside_and_reach_every_edge():
    rng = np.random.default_rng(0)
    boxes = np.array([random_crop_box(30, 40, (0.3, 1.0), RATIO, rng) for _ in range(3000)])
    top, left, rows, columns = boxes.T
    assert top.min() == 0 and left.min() == 0
    assert (top + rows).max() == 30 and (left + columns).max() == 40
    assert (rows > 0).all() and (columns > 0).all()


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((10, 1000), (0, 493, 10, 13)),  # too wide: 4/3 of the height, centred
        ((1000, 10), (493, 0, 13, 10)),  # too high: 3/4
        ((1, 1), (0, 0, 1, 1)),
        ((1, 50), (0, 24, 1, 1)),
    ],
)
def test_centre_fallback(size, box):
    got = random_crop_box(*size, (0.9, 1.0), RATIO, np.random.default_rng(0))
    assert got == box == torchvision_box(*size, (0.9, 1.0), RATIO, np.random.default_rng(0))


def test_views_have_the_recipes_shapes_and_are_cut_from_the_image():
    image = picture(150, 180)
    recipe = ViewRecipe(crop_scale=(0.4, 1.0), local_crops=3, local_size=24)
    views = crop_views(image, recipe, 64, np.random.default_rng(0))
    assert {key: (x.shape, x.dtype) for key, x in views.items()} == {
        "global": ((2, 64, 64, 3), np.uint8),
        "local": ((3, 24, 24, 3), np.uint8),
    }
    rng = np.random.default_rng(0)
    boxes = [random_crop_box(150, 180, (0.4, 1.0), RATIO, rng) for _ in range(2)]
    boxes += [random_crop_box(150, 180, (0.05, 0.4), RATIO, rng) for _ in range(3)]
    for view, (top, left, rows, columns) in zip(
        [*views["global"], *views["local"]], boxes, strict=True
    ):
        crop = image[top : top + rows, left : left + columns]
        np.testing.assert_array_equal(view, resize(crop, *view.shape[:2], "bicubic"))
    without = crop_views(image, ViewRecipe(crop_scale=(0.4, 1.0)), 64, np.random.default_rng(0))
    assert "local" not in without
    np.testing.assert_array_equal(without["global"], views["global"])


def test_one_pixel_image_fills_its_views():
    image = np.array([[[10, 20, 30]]], np.uint8)
    recipe = ViewRecipe(crop_scale=(0.08, 1.0), local_crops=1)
    for view in crop_views(image, recipe, 32, np.random.default_rng(0)).values():
        assert (view == image[0, 0]).all()
    assert (centre_view(image, 32) == image[0, 0]).all()


@pytest.mark.parametrize("size", [(8, 32), (32, 8)])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1)])
def test_strips_fill_rectangular_views(size, shape):
    image = np.full((*shape, 3), 90, np.uint8)
    views = crop_views(image, ViewRecipe(crop_scale=(0.08, 1.0)), size, np.random.default_rng(0))
    assert views["global"].shape == (2, *size, 3) and (views["global"] == 90).all()


def pillow_resized(image, size, interpolation) -> np.ndarray:
    kind = Image.BILINEAR if interpolation == "bilinear" else Image.BICUBIC
    return np.asarray(Image.fromarray(image).resize((size, size), kind)).astype(int)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    "size",
    [(50, 60), (95, 97), (149, 171), (310, 290), (900, 700), (60, 300), (300, 60), (12, 9000)],
)
def test_resize_is_pillows_up_to_rounding(interpolation, size):
    image = picture(*size)
    expected = pillow_resized(image, 96, interpolation)
    difference = np.abs(resize(image, 96, 96, interpolation) - expected)
    # The two passes come in another order, and between them both cut off at 0 and 255.
    assert difference.mean() < 0.25 and difference.max() <= 2
    assert (difference <= 1).mean() > 0.9999


@pytest.mark.parametrize(
    ("interpolation", "mean", "largest"), [("bilinear", 0.3, 1), ("bicubic", 0.9, 20)]
)
def test_views_that_grow_are_near_to_pillows(interpolation, mean, largest):
    """A named departure: OpenCV's cubic filter has a = -0.75, Pillow's -0.5."""
    image = picture(60, 60)
    recipe = ViewRecipe(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), interpolation=interpolation)
    views = crop_views(image, recipe, 96, np.random.default_rng(0))["global"]
    difference = np.abs(views[0] - pillow_resized(image, 96, interpolation))
    assert difference.mean() < mean and difference.max() <= largest


def test_threads_resize_at_the_same_time():
    images = [picture(70, 90, seed) for seed in range(4)]
    expected = [resize(image, 48, 48, "bicubic") for image in images]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda i: resize(images[i % 4], 48, 48, "bicubic"), range(200)))
    for number, result in enumerate(results):
        np.testing.assert_array_equal(result, expected[number % 4])


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("side", [7, 40, 64, 65, 200, 1500])
def test_resize_keeps_flat_areas_and_does_not_shift(interpolation, side):
    flat = np.full((side, side, 3), (3, 128, 252), np.uint8)
    assert (resize(flat, 64, 64, interpolation) == flat[0, 0]).all()
    left_right = np.zeros((side, side, 3), np.uint8)
    left_right[:, side // 2 + side % 2 :] = 250
    resized = resize(left_right, 64, 64, interpolation).astype(int)
    mirrored = resize(left_right[:, ::-1], 64, 64, interpolation).astype(int)[:, ::-1]
    assert np.abs(resized - mirrored).max() <= 1


def test_resize_removes_what_is_too_fine_to_show():
    stripes = np.zeros((448, 448, 3), np.uint8)
    stripes[:, ::2] = 255  # alternate columns; without antialiasing they would alias to bands
    assert np.abs(resize(stripes, 96, 96, "bicubic")[:, 2:-2].astype(int) - 127).max() <= 3


def test_resize_to_the_same_size_changes_nothing():
    image = picture(40, 40)
    np.testing.assert_array_equal(resize(image, 40, 40, "bicubic"), image)


@pytest.mark.parametrize("size", [(300, 400), (400, 300), (256, 256), (40, 64)])
def test_centre_view_is_resize_then_centre_crop(size):
    image = picture(*size)
    height, width = size
    short = min(size)
    resized = Image.fromarray(image).resize(
        (int(256 * width / short), int(256 * height / short)), Image.BICUBIC
    )
    left, top = round((resized.width - 224) / 2), round((resized.height - 224) / 2)
    expected = np.asarray(resized.crop((left, top, left + 224, top + 224))).astype(int)
    got = centre_view(image, 224)
    assert got.shape == (224, 224, 3)
    assert np.abs(got - expected).mean() < 0.3


def test_centre_view_keeps_its_ratio_at_small_sizes():
    image = np.zeros((80, 80, 3), np.uint8)
    image[5:75, 5:75] = 255  # exactly the part that 224 of 256 keeps
    assert centre_view(image, 28)[1:-1, 1:-1].min() > 250
    assert centre_view(image, 28, crop_ratio=1.0)[0].max() < 10


def test_centre_view_of_an_endless_strip_stays_small():
    assert centre_view(np.zeros((1, 100_000, 3), np.uint8), 32).shape == (32, 32, 3)


def test_one_view_with_rand_augment_is_the_crop_and_then_its_operators():
    image = picture(40, 50)
    plain = ViewRecipe(crop_scale=(0.3, 1.0), global_crops=1)
    changed = 0
    for seed in range(8):
        cut = [
            crop_views(image, recipe, 24, np.random.default_rng(seed))["global"]
            for recipe in (
                plain,
                dataclasses.replace(plain, rand_augment=RandAugment(operators=0)),
                dataclasses.replace(plain, rand_augment=RandAugment()),
                dataclasses.replace(plain, rand_augment=RandAugment()),
            )
        ]
        assert cut[0].shape == (1, 24, 24, 3)
        np.testing.assert_array_equal(cut[0], cut[1])
        np.testing.assert_array_equal(cut[2], cut[3])
        changed += int((cut[0] != cut[2]).any())
    assert changed >= 3  # three images in four, on average


def test_clamped_crops_are_cut_down_and_not_drawn_again():
    """MAE's crop (util/crop.py): one draw, its sides at most those of the image."""
    area, aspect = 20 * 100 * 0.9, 4 / 3
    draws = [0.9 / 0.99 - 0.01 / 0.99, 1.0, 0.5, 0.5] + [0.0] * 36
    box = views._crop_box(20, 100, (0.01, 1.0), (3 / 4, 4 / 3), draws, clamp=True)
    columns = round((area * aspect) ** 0.5)
    assert box == (0, int(0.5 * (100 - columns + 1)), 20, columns)
    assert views._crop_box(20, 100, (0.01, 1.0), (3 / 4, 4 / 3), draws)[2] < 20  # drawn again


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (5, np.uint8), (3, np.uint16)])
def test_channels_are_cropped_as_those_of_a_picture(channels, dtype):
    """Enlarged and shrunk views of each channel are those of a grey picture of it."""
    image = np.concatenate([picture(40, 60, seed) for seed in range(2)], axis=2)[..., :channels]
    scale = np.iinfo(dtype).max // 255
    recipe = ViewRecipe(crop_scale=(0.1, 1.0), local_crops=4, local_size=8)
    ends = None if dtype == np.uint8 else (0, 255)
    out = views.empty_views(recipe, (24, 40), pixels=PixelFormat(channels, ends))
    crop_views(image.astype(dtype) * scale, recipe, (24, 40), np.random.default_rng(3), out)
    centre = centre_view(image.astype(dtype) * scale, (24, 40)).astype(float) / scale
    for channel in range(channels):
        grey = np.repeat(image[..., channel : channel + 1], 3, axis=2)
        expected = crop_views(grey, recipe, (24, 40), np.random.default_rng(3))
        for name, cut in expected.items():
            assert out[name].dtype == dtype and out[name].shape[:-1] == cut.shape[:-1]
            difference = out[name][..., channel].astype(float) / scale - cut[..., 0]
            assert np.abs(difference).max() <= 1
        assert np.abs(centre[..., channel] - centre_view(grey, (24, 40))[..., 0]).max() <= 1


def test_a_crop_into_a_rectangle_is_not_squeezed():
    """The recipe's ratio is the distortion: of a crop as wide as its view there is none."""
    image = picture(60, 180)
    whole = ViewRecipe(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), global_crops=1)
    view = crop_views(image, whole, (20, 60), np.random.default_rng(0))["global"][0]
    np.testing.assert_array_equal(view, resize(image, 20, 60, "bicubic"))


@pytest.mark.parametrize("size", [(70, 210), (210, 70), (140, 140)])
def test_centre_view_of_a_rectangle_covers_it_without_squeezing(size):
    image = picture(*size)
    view = centre_view(image, (28, 56))
    factor = max(32 / size[0], 64 / size[1])
    resized = resize(image, int(size[0] * factor), int(size[1] * factor), "bicubic")
    top, left = round((resized.shape[0] - 28) / 2), round((resized.shape[1] - 56) / 2)
    np.testing.assert_array_equal(view, resized[top : top + 28, left : left + 56])
