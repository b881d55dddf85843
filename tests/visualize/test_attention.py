"""Attention maps: which patches hold a share of it, similarity to the mean, heads in lines."""

import numpy as np
import pytest

from repre_jax.visualize.attention import head_panels, heaviest, only, similarity_to_mean

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("mass", [0.1, 0.6, 0.95])
def test_heaviest_patches_are_those_of_dino(mass):
    """Ascending shares are summed, and what comes after 1 - mass is kept (visualize_attention)."""
    attention = RNG.random((2, 3, 5, 4)) ** 3
    chosen = heaviest(attention, mass)
    for one, of_one in zip(attention.reshape(6, 20), chosen.reshape(6, 20), strict=True):
        order = np.argsort(one)
        summed = np.cumsum(one[order] / one.sum())
        expected = np.zeros(20, bool)
        expected[order] = summed > 1 - mass
        np.testing.assert_array_equal(of_one, expected)
        # The smallest set: without its lightest patch it holds less.
        held = one[of_one].sum() / one.sum()
        assert held >= mass > held - one[of_one].min() / one.sum()


def test_similarity_to_the_mean_token():
    maps = RNG.normal(size=(2, 3, 4, 8)).astype(np.float32)
    found = similarity_to_mean(maps)
    for image, similarities in zip(maps, found, strict=True):
        mean = image.reshape(12, 8).mean(axis=0)
        for token, similarity in zip(image.reshape(12, 8), similarities.ravel(), strict=True):
            cosine = token @ mean / np.linalg.norm(token) / np.linalg.norm(mean)
            assert similarity == pytest.approx(cosine, abs=1e-5)
    assert similarity_to_mean(np.zeros((1, 2, 2, 3))).tolist() == [[[0, 0], [0, 0]]]


@pytest.mark.parametrize(("heads", "lines", "columns"), [(3, 1, 5), (6, 1, 8), (12, 2, 8)])
def test_many_heads_take_several_lines(heads, lines, columns):
    views = RNG.integers(0, 256, (2, 16, 16, 3), np.uint8)
    attention = RNG.random((2, heads, 4, 4))
    rows = head_panels(views, attention)
    assert len(rows) == 2 * lines
    assert max(map(len, rows)) == columns
    first = [panel for row in rows[:lines] for panel in row if panel]
    assert [panel.title for panel in first] == [
        "image",
        "mean",
        *(f"head {h}" for h in range(heads)),
    ]
    np.testing.assert_allclose(first[1].pixels, attention[0].mean(axis=0))
    np.testing.assert_array_equal(first[-1].pixels, attention[0, -1])
    assert first[-1].limits == (0, attention[0, -1].max())


def test_patches_that_are_left_out_are_paled():
    image = np.full((16, 16, 3), 100, np.uint8)
    patches = np.zeros((2, 4), bool)
    patches[1, 0] = True
    shown = only(image, patches)
    np.testing.assert_array_equal(shown[8:, :4], 100)
    assert shown[:8].min() > 200 and shown[:, 4:].min() > 200
