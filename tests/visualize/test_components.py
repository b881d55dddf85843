"""Patch tokens as colours."""

import numpy as np
import pytest

from repre_jax.visualize.components import token_colours

RNG = np.random.default_rng(0)


def test_equal_features_have_equal_colours_in_all_images():
    """Of four kinds of tokens, at other places in every image."""
    kinds = RNG.normal(size=(4, 16))
    places = RNG.integers(0, 4, (3, 6, 5))
    colours = token_colours(kinds[places])
    assert colours.shape == (3, 6, 5, 3)
    of_kinds = [np.unique(colours[places == kind].round(5), axis=0) for kind in range(4)]
    assert [len(found) for found in of_kinds] == [1] * 4
    assert len(np.unique(np.concatenate(of_kinds), axis=0)) == 4


def test_colours_are_the_first_three_components():
    scores = RNG.normal(size=(2, 8, 8, 3)) * (9, 3, 1)
    directions = np.linalg.qr(RNG.normal(size=(20, 3)))[0].T
    colours = token_colours(scores @ directions + 5).reshape(-1, 3)
    for k in range(3):
        inside = (colours[:, k] > 0) & (colours[:, k] < 1)
        correlation = np.corrcoef(colours[inside, k], scores.reshape(-1, 3)[inside, k])[0, 1]
        assert abs(correlation) > 0.95


def test_the_background_is_what_lies_at_the_borders():
    maps = RNG.normal(size=(2, 8, 8, 16)) * 0.1
    maps[:, 2:6, 2:6] += 5 * RNG.normal(size=16)  # an object in the middle
    colours = token_colours(maps, remove_background=True)
    white = (colours == 1).all(axis=-1)
    expected = np.ones((2, 8, 8), bool)
    expected[:, 2:6, 2:6] = False
    assert (white == expected).mean() > 0.97  # a token may be white for being brightest
    assert not (token_colours(maps) == 1).all(axis=-1).all()


@pytest.mark.filterwarnings("error")
def test_tokens_that_are_all_the_same():
    for remove in (False, True):
        colours = token_colours(np.ones((1, 4, 4, 8)), remove_background=remove)
        assert np.isfinite(colours).all()
        assert len(np.unique(colours.reshape(-1, 3), axis=0)) == 1
