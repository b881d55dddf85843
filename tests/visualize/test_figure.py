"""Grids of panels: their size on paper, and that the same picture is the same file."""

import cv2
import numpy as np
import pytest

from repre_jax.errors import UserError
from repre_jax.visualize.figure import OKABE_ITO, Panel, save_grid

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (16, 16, 3), np.uint8)
MAP = RNG.random((4, 4))


def grid(path, columns, rows=2):
    panels = [Panel(IMAGE, title="image"), *[Panel(MAP, caption="a map")] * (columns - 1)]
    save_grid(path, "A title", [panels, *[[None, Panel(MAP)]] * (rows - 1)], ["", "row"])
    return cv2.imread(str(path))


def test_a_wide_grid_is_a_thousand_pixels_wide_and_a_narrow_one_has_small_panels(tmp_path):
    wide, narrow = grid(tmp_path / "wide.png", 8), grid(tmp_path / "narrow.png", 2)
    assert wide.shape[1] == 1000
    assert wide.shape[0] < 500
    assert narrow.shape[1] < 600


def test_what_is_beyond_eight_columns_goes_below(tmp_path):
    eight, nine = (grid(tmp_path / f"{k}.png", k) for k in (8, 9))
    assert eight.shape[1] == nine.shape[1] == 1000
    assert nine.shape[0] > 1.7 * eight.shape[0]


def test_names_are_no_formulas(tmp_path):
    panel = Panel(IMAGE, title=r"$\no$", caption="$_$")
    save_grid(tmp_path / "a.png", r"Images of a$\frac{$b", [[panel]], ["$^$"])
    assert cv2.imread(str(tmp_path / "a.png")) is not None


def test_the_same_picture_is_the_same_file(tmp_path):
    grid(tmp_path / "a.png", 3)
    grid(tmp_path / "b.png", 3)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert not list(tmp_path.glob("*.tmp"))


def test_a_frame_has_its_colour(tmp_path):
    rows = [[Panel(np.full((8, 8, 3), 255, np.uint8), frame=OKABE_ITO[3])]]
    save_grid(tmp_path / "framed.png", "", rows)
    drawn = cv2.cvtColor(cv2.imread(str(tmp_path / "framed.png")), cv2.COLOR_BGR2RGB)
    colour = [int(OKABE_ITO[3][k : k + 2], 16) for k in (1, 3, 5)]
    assert (drawn == colour).all(axis=-1).sum() > 500


def test_limits_are_the_ends_of_the_colours(tmp_path):
    """A map of one value is as dark as can be between it and 1, and as bright between 0 and it."""

    def brightness(limits):
        panel = Panel(np.full((4, 4), 0.5), limits=limits)
        save_grid(tmp_path / "map.png", "", [[panel]])
        image = cv2.imread(str(tmp_path / "map.png"))
        return image[image.min(axis=-1) < 200].mean()

    assert brightness((0.5, 1.0)) < brightness((0.0, 1.0)) < brightness((0.0, 0.5))


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "figures").write_text("")
    with pytest.raises(UserError, match="a file of that name is in the way"):
        grid(tmp_path / "figures" / "a.png", 2)
