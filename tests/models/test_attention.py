"""Every way to attend is JAX's own dot-product attention, in values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from repre_jax.models.attention import attend


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


def test_logits_and_softmax_are_float32():
    """In bfloat16 a sum of many weights would stop growing."""
    tokens = 2000
    query = key = jnp.zeros((1, tokens, 1, 2), jnp.bfloat16)
    value = jnp.ones((1, tokens, 1, 2), jnp.bfloat16)
    np.testing.assert_allclose(np.float32(attend(query, key, value)), 1.0, atol=0.01)
