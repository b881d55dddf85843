"""LayerNorm is flax's with the variance in two passes, in values and gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from repre_jax.models.layer_norm import LayerNorm
from repre_jax.models.layers import gelu


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 0.02)])
def test_values_and_gradients_of_the_norm(dtype, tolerance):
    keys = jax.random.split(jax.random.key(0), 4)
    x = (5 + 2 * jax.random.normal(keys[0], (2, 7, 12))).astype(dtype)
    weights = jax.random.normal(keys[1], x.shape)
    params = {
        name: jax.random.normal(k, (12,))
        for name, k in zip(("scale", "bias"), keys[2:], strict=True)
    }

    def results(norm, x):
        def loss(params, x):
            return jnp.sum(weights * norm.apply({"params": params}, x))

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, x)

    ours = results(LayerNorm(epsilon=1e-6, dtype=dtype), x)
    exact = nn.LayerNorm(epsilon=1e-6, use_fast_variance=False)
    theirs = results(exact, x.astype(jnp.float32))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(np.float32(a), b, rtol=tolerance, atol=5 * tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-6), (jnp.bfloat16, 0.01)])
def test_values_and_gradients_of_gelu(dtype, tolerance):
    x = jnp.linspace(-6, 6, 101).astype(dtype)
    wide = x.astype(jnp.float32)
    close = {"rtol": tolerance, "atol": tolerance}
    expected = nn.gelu(wide, approximate=False)
    np.testing.assert_allclose(np.float32(gelu(x)), expected, **close)
    slope = jax.grad(lambda x: jnp.sum(gelu(x).astype(jnp.float32)))(x)
    expected = jax.grad(lambda x: jnp.sum(nn.gelu(x, approximate=False)))(wide)
    np.testing.assert_allclose(np.float32(slope), expected, **close)


def test_nothing_but_the_input_is_kept_for_the_gradient_of_gelu():
    x = jax.ShapeDtypeStruct((3, 4), jnp.bfloat16)
    kept = jax.eval_shape(lambda x: jax.vjp(gelu, x)[1], x)
    assert [(k.shape, k.dtype) for k in jax.tree.leaves(kept)] == [(x.shape, x.dtype)]
