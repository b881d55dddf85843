"""MAE's decoder on devices that pad its tokens; the rest of it is in tests/methods."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import random_params

from repre_jax.models import attention
from repre_jax.models.mae_decoder import MAEDecoder
from repre_jax.models.masking import shuffle


@pytest.mark.parametrize("residual", [None, jnp.float32])
def test_sums_through_all_blocks_are_of_the_type_asked_for(residual):
    decoder = MAEDecoder(
        (2, 3), values=4, width=16, depth=1, heads=2, dtype=jnp.bfloat16, residual_dtype=residual
    )
    tokens, noise = jnp.zeros((2, 3, 8), jnp.bfloat16), jnp.zeros((2, 6))

    def run(key):
        shuffled, method = shuffle(noise), {"capture_intermediates": True}
        return decoder.init_with_output(key, tokens, shuffled, False, **method)

    pixels, found = jax.eval_shape(run, jax.random.key(0))
    (of_block,) = found["intermediates"]["block_0"]["__call__"]
    assert of_block.dtype == (residual or jnp.bfloat16) and pixels.dtype == jnp.bfloat16


def test_with_unseen_tokens_it_is_the_same(monkeypatch):
    decoder = MAEDecoder((2, 3), values=4, width=16, depth=2, heads=2)
    tokens = jax.random.normal(jax.random.key(0), (2, 3, 8))
    shuffled = shuffle(jax.random.uniform(jax.random.key(1), (2, 6)))
    params = {"params": random_params(decoder, tokens, shuffled, False)}

    def results():
        def loss(params, tokens):
            pixels = decoder.apply(params, tokens, shuffled, True)
            return jnp.sum(jnp.sin(pixels)), pixels

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(params, tokens)

    expected = results()
    monkeypatch.setattr(attention, "best_length", lambda tokens, *_: tokens + 1)
    for ours, theirs in zip(jax.tree.leaves(results()), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
