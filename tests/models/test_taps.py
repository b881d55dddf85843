"""The one reader of sown features."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import random_params

from repre_jax.models.layers import Block
from repre_jax.models.taps import BlockOutput, apply_with_taps, read_block, tap_name
from repre_jax.models.vit import ViT

OPTIONS = {"patch_size": 8, "width": 16, "depth": 4, "heads": 2, "image_size": 24}
IMAGES = np.random.default_rng(0).normal(size=(2, 24, 16, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def variables():
    return {"params": random_params(ViT(**OPTIONS), IMAGES)}


def maps_of(model, variables, blocks):
    return jax.jit(lambda v, x: apply_with_taps(model, v, x, blocks))(variables, IMAGES)


@pytest.fixture(scope="module")
def tapped(variables):
    return maps_of(ViT(**OPTIONS), variables, (0, 1, 2, 3))


def test_maps_are_those_of_the_blocks_run_by_hand(variables, tapped):
    encoded, maps = tapped
    params = variables["params"]

    class Embedding(ViT):
        """What enters the first block."""

        @nn.compact
        def __call__(self, images):
            x = self._embed_patches(images, False).reshape(2, 6, 16)
            return self._prepend_class_token(x) + self._positions((3, 2))

    x = jax.jit(Embedding(**OPTIONS).apply)(variables, IMAGES)
    block = jax.jit(lambda params, x: Block(heads=2).apply({"params": params}, x, False))
    for k in range(4):
        x = block(params[f"block_{k}"], x)
        assert maps[k].shape == (2, 3, 2, 16)
        np.testing.assert_allclose(maps[k].reshape(2, 6, 16), x[:, 1:], atol=1e-5)
    assert not np.allclose(encoded.tokens, maps[3].reshape(2, 6, 16), atol=1e-2), "before the norm"


def test_order_is_the_callers(variables, tapped):
    _, some = maps_of(ViT(**OPTIONS), variables, (3, 1))
    np.testing.assert_allclose(some[0], tapped[1][3], atol=1e-6)
    np.testing.assert_allclose(some[1], tapped[1][1], atol=1e-6)


def test_no_taps_no_maps(variables, tapped):
    encoded, maps = maps_of(ViT(**OPTIONS), variables, ())
    assert maps == []
    np.testing.assert_allclose(encoded.pooled, tapped[0].pooled, atol=1e-6)


@pytest.mark.parametrize("level", ["attention", "block"])
def test_taps_survive_rematerialisation_and_the_gradient_is_the_same(variables, level):
    def loss(params, remat):
        model = ViT(**OPTIONS, remat=remat)
        encoded, maps = apply_with_taps(model, {"params": params}, IMAGES, (1, 3))
        return sum(jnp.sum(m**2) for m in maps) + jnp.sum(encoded.pooled**3)

    gradient = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    plain, again = (gradient(variables["params"], remat) for remat in ("none", level))
    np.testing.assert_allclose(plain[0], again[0], rtol=1e-6)
    for a, b in zip(jax.tree.leaves(plain[1]), jax.tree.leaves(again[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(a).max())


def test_a_missing_tap_is_named(variables):
    with pytest.raises(KeyError, match=r"tap_7 was sown 0 times, not once; sown: tap_0, tap_1"):
        jax.eval_shape(lambda: apply_with_taps(ViT(**OPTIONS), variables, IMAGES, (1, 7)))


def test_two_passes_in_one_apply_are_refused(variables):
    """Sown values of a second pass would be appended, and the first silently taken."""

    class Twice(nn.Module):
        @nn.compact
        def __call__(self, images):
            for _ in range(2):
                self.sow("intermediates", tap_name(0), BlockOutput(images, None))
            return images

    with pytest.raises(KeyError, match="tap_0 was sown 2 times"):
        apply_with_taps(Twice(), {}, IMAGES, (0,))


def test_nothing_sown_is_said():
    with pytest.raises(KeyError, match="sown: nothing"):
        read_block({}, 0)
