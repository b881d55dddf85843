"""Maps of blocks: the final norm, lengths of one, and several blocks side by side."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import random_params, tiny_config, tiny_swin_config

from repre_jax.errors import UserError
from repre_jax.evaluation.frozen import from_levels
from repre_jax.evaluation.segmentation.maps import (
    block_maps,
    chosen_blocks,
    fuse,
    names_of,
    reported_of,
    unit,
    with_fused,
)
from repre_jax.models import build_encoder


def encoder_of(config):
    return build_encoder(config, jnp.float32)


def test_the_last_map_is_what_the_encoder_returns():
    """Tokens behind the final norm; facebookresearch/dino, get_intermediate_layers(n=1)."""
    encoder = encoder_of(tiny_config("dino"))
    images = np.random.default_rng(0).integers(0, 256, (2, 24, 16, 3), np.uint8)
    params = random_params(encoder, jnp.zeros((1, 16, 16, 3)))
    first, last = jax.jit(lambda params: block_maps(encoder, params, images, (0, 1)))(params)
    assert first.shape == last.shape == (2, 3, 2, encoder.width)
    tokens = jax.jit(encoder.apply)({"params": params}, from_levels(encoder, images)).tokens
    np.testing.assert_allclose(last.reshape(tokens.shape), tokens, atol=1e-5)


def test_cosines_of_fused_vectors_are_means_of_those_of_the_blocks():
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(1, 2, 3, width)) * size for width, size in ((4, 1), (6, 100))]
    fused = np.asarray(fuse(maps)).reshape(6, -1)
    np.testing.assert_allclose(np.linalg.norm(fused, axis=1), 1, rtol=1e-5)
    alone = [np.asarray(unit(x)).reshape(6, -1) for x in maps]
    mean = sum(x @ x.T for x in alone) / 2
    np.testing.assert_allclose(fused @ fused.T, mean, atol=1e-5)


def test_maps_of_swin_are_fused_on_the_finest_grid():
    encoder = encoder_of(tiny_swin_config("moby"))
    params = jax.eval_shape(lambda: encoder.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    blocks = chosen_blocks(encoder, ())

    def maps(params, images):
        return with_fused(block_maps(encoder, params, images, blocks), True)

    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.uint8)
    found = jax.eval_shape(maps, params["params"], images)
    grids = [x.shape[1:3] for x in found]
    assert grids == [(8, 8), (8, 8), (4, 4), (2, 2), (1, 1), (8, 8)]
    assert found[-1].shape[-1] == sum(x.shape[-1] for x in found[:-1])


def test_names():
    assert names_of((0, 3), True) == ("0", "3", "fused")
    assert reported_of(("0", "3", "fused")) == "3" == reported_of(("0", "3"))
    encoder = encoder_of(tiny_config("dino"))
    assert chosen_blocks(encoder, ()) == (0, 1) and chosen_blocks(encoder, (-1,)) == (1,)
    with pytest.raises(UserError, match="blocks has block 2: there are blocks 0 to 1"):
        chosen_blocks(encoder, (2,))
