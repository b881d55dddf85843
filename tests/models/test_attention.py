"""Every way to attend is JAX's own dot-product attention, in values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from repre_jax.models.attention import attend, first_token_weights


@pytest.mark.parametrize("bias", [None, 1, 2])
@pytest.mark.parametrize("tokens", [7, 300])
def test_values_and_gradients(tokens, bias):
    keys = jax.random.split(jax.random.key(0), 5)
    query, key, value, weights = (jax.random.normal(k, (2, tokens, 3, 4)) for k in keys[:4])
    inputs = [query, key, value]
    if bias:
        inputs.append(jax.random.normal(keys[4], (bias, 3, tokens, tokens)))

    def results(attention):
        loss = lambda *inputs: jnp.sum(weights * attention(*inputs))  # noqa: E731
        return jax.jit(jax.value_and_grad(loss, argnums=tuple(range(len(inputs)))))(*inputs)

    for ours, theirs in zip(
        jax.tree.leaves(results(attend)),
        jax.tree.leaves(results(jax.nn.dot_product_attention)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [None, 1, 2])
def test_weights_of_the_first_token_are_those_it_is_mixed_with(bias):
    keys = jax.random.split(jax.random.key(0), 4)
    query, key, value = (jax.random.normal(k, (2, 7, 3, 4)) for k in keys[:3])
    added = None if bias is None else jax.random.normal(keys[3], (bias, 3, 7, 7))
    weights = first_token_weights(query, key, added)
    mixed = np.einsum("bhn,bnhd->bhd", weights, value)
    np.testing.assert_allclose(mixed, attend(query, key, value, added)[:, 0], atol=1e-5)


def test_logits_and_softmax_are_float32():
    """In bfloat16 a sum of many weights would stop growing."""
    tokens = 2000
    query = key = jnp.zeros((1, tokens, 1, 2), jnp.bfloat16)
    value = jnp.ones((1, tokens, 1, 2), jnp.bfloat16)
    np.testing.assert_allclose(np.float32(attend(query, key, value)), 1.0, atol=0.01)
