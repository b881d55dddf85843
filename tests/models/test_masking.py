"""What masked methods hide: exact counts, draws that no device changes, gradients by gathering."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from repre_jax.methods import windows
from repre_jax.methods.method import Keys
from repre_jax.models.masking import (
    draw_noise,
    keep,
    kept_of,
    least,
    share_of,
    shuffle,
    unshuffle,
)
from repre_jax.random_streams import example_keys
from repre_jax.sharding import by_row, make_mesh

BATCH, PATCHES, WIDTH = 8, 12, 3
CONFIG = ConfigDict({"windows": 3, "side": 4, "mask_ratio": 0.8, "pairing": "independent"})


def noise():
    return np.random.default_rng(0).random((BATCH, PATCHES), np.float32)


def tokens():
    return np.random.default_rng(1).normal(size=(BATCH, PATCHES, WIDTH)).astype(np.float32)


def keys_of(index, epoch=0):
    index = jnp.asarray(index, jnp.int32)
    examples = example_keys(0, 5, jnp.full_like(index, epoch), index)
    return Keys(examples, jax.random.key(1))


@pytest.mark.parametrize("ratio", [k / 100 for k in range(1, 100)])
def test_counts_are_those_of_the_decimal_number(ratio):
    for patches in (49, 196, 576, 784):
        hidden = round(100 * ratio) * patches  # in hundredths, exact
        assert share_of(patches, ratio) == hidden // 100
        assert kept_of(patches, ratio) == (100 * patches - hidden) // 100


def test_counts_of_the_papers():
    assert (kept_of(196, 0.75), share_of(49, 0.8)) == (49, 39)
    assert kept_of(10, 0.9) == 1  # 10 * (1 - 0.9) is 0.9999999999999998


def test_restoring_undoes_shuffling():
    shuffled = shuffle(jnp.asarray(noise()))
    kept = keep(tokens(), shuffled, PATCHES)
    np.testing.assert_array_equal(unshuffle(kept, shuffled), tokens())
    np.testing.assert_array_equal(kept[:, 0], tokens()[np.arange(BATCH), noise().argmin(axis=1)])


@pytest.mark.parametrize("count", [1, 5, PATCHES])
def test_gradients_are_those_of_plain_gathers(count):
    shuffled = shuffle(jnp.asarray(noise()))
    weights = np.random.default_rng(2).normal(size=(BATCH, count, WIDTH)).astype(np.float32)

    def kept(x):
        return jnp.sum(weights * keep(x, shuffled, count))

    def gathered(x):
        return jnp.sum(weights * jnp.take_along_axis(x, shuffled.order[:, :count, None], axis=1))

    np.testing.assert_array_equal(jax.grad(kept)(tokens()), jax.grad(gathered)(tokens()))

    def restored(x):
        return jnp.sum(weights * unshuffle(x, shuffled)[:, :count])

    def taken(x):
        restored = jnp.take_along_axis(x, shuffled.restore[..., None], axis=1)
        return jnp.sum(weights * restored[:, :count])

    np.testing.assert_array_equal(jax.grad(restored)(tokens()), jax.grad(taken)(tokens()))


def test_exactly_so_many_are_masked_even_where_noise_is_equal():
    for count in range(PATCHES + 1):
        assert (np.asarray(least(jnp.zeros((BATCH, PATCHES)), count)).sum(axis=1) == count).all()
        assert (np.asarray(least(jnp.asarray(noise()), count)).sum(axis=1) == count).all()


def test_draws_are_of_the_image_and_the_epoch_alone():
    """On one device and eight, in any place of the batch: the same windows, masks and noise."""

    def draws(keys):
        return windows.draw(keys, (10, 10), CONFIG), draw_noise(keys.examples, (PATCHES,))

    alone = jax.jit(draws)(keys_of(range(BATCH)))
    mesh = make_mesh(8)
    keys = keys_of(range(BATCH))
    spread = keys._replace(examples=jax.device_put(keys.examples, by_row(mesh)))
    on_eight = jax.jit(draws)(spread)
    backwards = jax.jit(draws)(keys_of(range(BATCH - 1, -1, -1)))
    other_epoch = jax.jit(draws)(keys_of(range(BATCH), epoch=1))
    for one, eight, reverse, later in zip(
        *(jax.tree.leaves(x) for x in (alone, on_eight, backwards, other_epoch)), strict=True
    ):
        np.testing.assert_array_equal(one, eight)
        np.testing.assert_array_equal(one, np.asarray(reverse)[::-1])
        assert not np.array_equal(one, later)


def test_windows_of_an_image_have_different_rows_and_columns_and_all_places_are_drawn():
    drawn = jax.jit(lambda keys: windows.draw(keys, (10, 10), CONFIG))(keys_of(range(512)))
    assert drawn.masked.shape == (512, 3, 16)
    assert (np.asarray(drawn.masked).sum(axis=-1) == 12).all()
    for places in (np.asarray(drawn.rows), np.asarray(drawn.columns)):
        assert all(len(set(row)) == 3 for row in places)
        counts = np.bincount(places.ravel(), minlength=7)
        expected = 512 * 3 / 7
        assert (np.abs(counts - expected) < 5 * expected**0.5).all()
    pairs = {tuple(pair) for pair in np.stack(drawn[:2], axis=-1).reshape(-1, 2)}
    assert len(pairs) == 49


def test_released_pairing_gives_an_image_one_window_where_their_number_divides_the_batch():
    """16 images, 4 windows: one each; 15 images: all four. Intended: four each."""

    def different(batch):
        rows = windows.released(jnp.arange(4), batch)
        return {len(set(row)) for row in np.asarray(rows).tolist()}

    assert (different(16), different(15), different(6)) == ({1}, {4}, {2})
    intended = windows.draw(keys_of(range(16)), (10, 10), CONFIG)
    corners = np.stack(intended[:2], axis=-1).tolist()
    assert {len(set(map(tuple, image))) for image in corners} == {3}
