"""LoMaR's relative positions against the official buckets, a plain gather, and its encoder."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from golden import from_torch_names
from golden.compare import FOLDER
from golden.finetune_cases import LOMAR_GRID, LOMAR_VIT, finetune_batch, lomar_weights

from repre_jax.models import ViT
from repre_jax.models.relative_positions import BUCKETS, bucket_of_offset, relative_logits

GOLDEN = dict(np.load(FOLDER / "lomar.npz"))
VIT = ViT(**dataclasses.asdict(LOMAR_VIT), position="relative")


@jax.jit
def pooled(params, images):
    return VIT.apply({"params": params}, images).pooled


def test_buckets_of_an_axis():
    offsets = np.arange(-6, 7)
    expected = [-3, -3, -3, -2, -2, -1, 0, 1, 2, 2, 3, 3, 3]
    np.testing.assert_array_equal(bucket_of_offset(offsets), expected)


def test_every_pair_gets_the_official_bucket():
    """A query whose product with bucket b is b has its keys' buckets as logits."""
    tokens = 1 + LOMAR_GRID[0] * LOMAR_GRID[1]
    products = jnp.broadcast_to(jnp.arange(BUCKETS, dtype=jnp.float32), (1, tokens, 1, BUCKETS))
    logits = relative_logits(products, LOMAR_GRID)
    np.testing.assert_array_equal(logits[0, 0], GOLDEN["buckets"])


def test_value_and_gradient_are_those_of_a_gather():
    rows, columns = LOMAR_GRID
    rng = np.random.default_rng(0)
    shape = (2, 1 + rows * columns, 3, BUCKETS)
    products = jnp.asarray(rng.normal(size=shape), jnp.float32)
    weights = jnp.asarray(rng.normal(size=(2, 3, shape[1], shape[1])), jnp.float32)

    def gathered(products):
        buckets = GOLDEN["buckets"].astype(int)[None, None]
        return jnp.take_along_axis(products.swapaxes(1, 2), buckets, axis=-1)

    def chosen(products):
        return relative_logits(products, LOMAR_GRID)

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_gradient(function):
        value, backward = jax.vjp(function, products)
        return value, *backward(weights)

    found, ours = value_and_gradient(chosen)
    expected, theirs = value_and_gradient(gathered)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_class_token_of_the_official_encoder():
    params = from_torch_names.encoder(lomar_weights("norm"))
    images, _ = finetune_batch(0, LOMAR_VIT.image_size)
    np.testing.assert_allclose(pooled(params, images), GOLDEN["class_token"], atol=1e-4)


def test_only_the_tables_know_where_a_patch_is():
    """With fresh tables, which are zero, the encoder sees a bag of patches."""
    params = from_torch_names.encoder(lomar_weights("norm"))
    images, _ = finetune_batch(0, LOMAR_VIT.image_size)
    turned = np.concatenate([images[:, 16:], images[:, :16]], axis=1)

    def distance(params):
        return np.abs(pooled(params, images) - pooled(params, turned)).max()

    assert distance(params) > 0.1
    initial = jax.jit(VIT.init)(jax.random.key(0), images)["params"]
    for name in ("block_0", "block_1"):
        fresh = initial[name]["attention"]["relative_position"]
        params[name]["attention"]["relative_position"] = fresh
    assert distance(params) < 1e-5
