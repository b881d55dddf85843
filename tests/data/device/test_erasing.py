"""Erased boxes against timm's, given the same draws, and what becomes of an image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.compare import FOLDER
from golden.finetune_cases import ERASED_SIZES

from repre_jax.data.device.erasing import erase, erased_box

GOLDEN = np.load(FOLDER / "finetune.npz")


@pytest.fixture(scope="module")
def erased():
    """A constant image, erased with many keys with probability 1/4: [n, 24, 30, 3]."""
    keys = jax.random.split(jax.random.key(0), 800)
    image = jnp.full((24, 30, 3), 7.0)
    return np.asarray(jax.jit(jax.vmap(lambda key: erase(key, image, 0.25)))(keys))


@pytest.mark.parametrize("size", ERASED_SIZES, ids=str)
def test_box_is_timms(size):
    name = "erase/{}x{}".format(*size)
    box = erased_box(jnp.asarray(GOLDEN[f"{name}/draws"]), *size)
    np.testing.assert_array_equal(box, GOLDEN[f"{name}/box"])


def test_some_recorded_draws_did_not_fit():
    """Else the retries would be untested."""
    height, width = ERASED_SIZES[-1]
    draws = jnp.asarray(GOLDEN[f"erase/{height}x{width}/draws"])
    first_alone = erased_box(draws[:1], height, width)
    assert not np.array_equal(first_alone, erased_box(draws, height, width))


def test_an_image_that_nothing_fits_stays_whole():
    draws = jnp.full((10, 4), 0.99)  # a third of the image, three times as high as wide
    assert [int(side) for side in erased_box(draws, 8, 64)][2:] == [0, 0]


def test_one_image_in_four_loses_a_box_of_noise(erased):
    changed = (erased != 7).any(axis=(1, 2, 3))
    assert abs(changed.mean() - 0.25) < 4 * (0.25 * 0.75 / len(erased)) ** 0.5
    for image in erased[changed]:
        inside = (image != 7).any(axis=-1)
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        box = inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.all()
        assert inside.sum() == box.size
    noise = erased[erased != 7]
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
