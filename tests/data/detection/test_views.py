"""Windows into images, and what they do to boxes and masks."""

import cv2
import numpy as np
import pytest

from repre_jax.data.detection.annotations import Instances, bitmap
from repre_jax.data.detection.views import (
    Window,
    fitted_window,
    jittered_window,
    short_edge_window,
    view_objects,
    view_pixels,
)

SIZE = (60, 80)
OUTLINE = np.float32([[10, 20], [50, 20], [50, 50], [30, 50], [30, 40], [10, 40]])  # an L, turned
INSTANCES = Instances(np.float32([[10, 20, 50, 50]]), np.int32([2]), [[OUTLINE]])


def seen_by_pixels(window, scale=4):
    """(box, mask in the window) of the object, by drawing it: the definition."""
    whole = bitmap([OUTLINE], SIZE)
    whole = whole[:, ::-1] if window.flip else whole
    large = (window.scaled[0] * scale, window.scaled[1] * scale)
    drawn = cv2.resize(whole, large[::-1], interpolation=cv2.INTER_NEAREST)
    (top, left), (height, width) = window.offset, window.size
    part = drawn[
        top * scale : (top + height) * scale,
        left * scale : (left + width) * scale,
    ]
    rows, columns = (np.flatnonzero(part.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return None, part
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / scale
    return box, part


WINDOWS = {
    "whole": Window(False, SIZE, (0, 0), SIZE),
    "mirrored": Window(True, SIZE, (0, 0), SIZE),
    "twice as large": Window(False, (120, 160), (0, 0), (120, 160)),
    "other factors": Window(False, (90, 96), (0, 0), (90, 96)),
    "a crop of it": Window(False, (120, 160), (50, 40), (64, 64)),
    "a crop of the mirrored": Window(True, (120, 160), (50, 60), (64, 64)),
    "smaller": Window(True, (30, 40), (0, 0), (30, 40)),
    "another crop": Window(False, (91, 121), (27, 57), (64, 64)),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_boxes_and_masks_are_those_of_the_pixels(name):
    window = WINDOWS[name]
    box, drawn = seen_by_pixels(window)
    found = view_objects(INSTANCES, SIZE, window)
    assert found.classes.tolist() == [2]
    # A pixel of the image, of which parts of masks are made, is so many of the window.
    step = max(window.scaled[0] / SIZE[0], window.scaled[1] / SIZE[1])
    np.testing.assert_allclose(found.boxes[0], box, atol=0.5 * step + 0.25)
    side = found.masks.shape[-1]
    x0, y0, x1, y1 = found.boxes[0] * 4
    rows = y0 + (np.arange(side) + 0.5) / side * (y1 - y0)
    columns = x0 + (np.arange(side) + 0.5) / side * (x1 - x0)
    rows = np.clip(rows.astype(int), 0, drawn.shape[0] - 1)
    columns = np.clip(columns.astype(int), 0, drawn.shape[1] - 1)
    expected = drawn[rows][:, columns]
    assert (found.masks[0] != expected).mean() < 0.03


def test_what_lies_outside_of_the_window_is_not_there():
    outside = Window(False, (120, 160), (0, 0), (30, 160))
    assert view_objects(INSTANCES, SIZE, outside).boxes.shape == (0, 4)
    # The box is in the window, the part of the mask below it is not.
    corner = Window(False, SIZE, (41, 10), (9, 15))
    assert seen_by_pixels(corner)[0] is None
    assert view_objects(INSTANCES, SIZE, corner).masks.shape == (0, 112, 112)


def test_pixels_are_scaled_mirrored_cut_and_padded_with_zeros():
    image = np.random.default_rng(0).integers(1, 256, (*SIZE, 3), np.uint8)
    out = np.full((100, 100, 3), 9, np.uint8)
    view_pixels(image, Window(True, SIZE, (10, 5), (50, 70)), out)
    np.testing.assert_array_equal(out[:50, :70], image[:, ::-1][10:60, 5:75])
    assert not out[50:].any() and not out[:, 70:].any()
    view_pixels(image, Window(False, (30, 40), (0, 0), (30, 40)), out)
    means = image.reshape(30, 2, 40, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(out[:30, :40], means, atol=0.51)


def test_whole_images_fit():
    assert fitted_window((480, 640), 1024, 1024).size == (768, 1024)
    assert fitted_window((640, 427), 100, 100).size == (100, 67)
    assert fitted_window((1, 5000), 100, 100).size == (1, 100)


def test_every_size_of_coco_fits_the_square_of_swin():
    for height in range(1, 641, 9):
        for width in range(1, 641, 7):
            size = fitted_window((height, width), 800, 1333).size
            assert max(size) <= 1333 and min(size) <= 800
            assert max(size) == 1333 or min(size) == 800


def test_short_edges_and_crops_of_swin():
    rng = np.random.default_rng(0)
    edges = tuple(range(480, 801, 32))
    options = {"short_edges": edges, "longest": 1333, "flip_probability": 0.5}
    whole = [short_edge_window((480, 640), rng, crop=False, **options) for _ in range(300)]
    assert {min(window.size) for window in whole} == set(edges)
    assert all(w.scaled == w.size and w.offset == (0, 0) for w in whole)
    mixed = [short_edge_window((480, 640), rng, crop=True, **options) for _ in range(300)]
    cut = [window for window in mixed if window.scaled != window.size]
    assert 0.35 < len(cut) / len(mixed) < 0.6
    for window in cut:
        assert min(window.size) in edges or max(window.size) == 1333
        for scaled, place, seen in zip(*window[1:], strict=True):
            assert 0 <= place <= scaled - seen
        # A crop of 384 to 600 pixels from short edges of 400 to 600.
        shares = np.array(window.size) / np.array(window.scaled)
        assert shares.min() > 384 / 810 and shares.max() <= 1


def test_jitter_has_the_range_the_crop_and_the_place_of_its_source():
    rng = np.random.default_rng(0)
    windows = [
        jittered_window((480, 640), 1024, rng, scales=(0.1, 2.0), flip_probability=0.5)
        for _ in range(400)
    ]
    longest = np.array([max(window.scaled) for window in windows])
    assert 102 <= longest.min() < 140 and 1960 < longest.max() <= 2048
    assert 0.4 < np.mean([window.flip for window in windows]) < 0.6
    for window in windows:
        assert abs(window.scaled[0] / window.scaled[1] - 0.75) < 0.01
        assert max(window.size) <= 1024
        for whole, place, seen in zip(*window[1:], strict=True):
            assert seen == min(whole, 1024) and 0 <= place <= whole - seen
        # One draw places both.
        if min(window.scaled) > 1100:
            shares = np.array(window.offset) / (np.array(window.scaled) - 1024)
            assert abs(shares[0] - shares[1]) < 0.02
