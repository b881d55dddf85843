"""Linear maps are flax's, but for the dtype that gradients of parameters are summed in."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from repre_jax.models.dense import Dense


def outputs(module, dtype, **options):
    """(output, gradients of parameters, gradient of the input)."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (4, 64, 8)).astype(dtype)
    layer = module(5, dtype=dtype, bias_init=nn.initializers.normal(1), **options)
    params = layer.init(keys[1], x)
    y, backward = jax.vjp(layer.apply, params, x)
    return y, *backward(jax.random.normal(keys[2], y.shape).astype(dtype))


@pytest.mark.parametrize("use_bias", [True, False])
def test_in_float32_it_is_flaxs(use_bias):
    ours, theirs = (outputs(m, jnp.float32, use_bias=use_bias) for m in (Dense, nn.Dense))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, theirs)


def test_in_bfloat16_gradients_of_parameters_are_not_rounded():
    def off(module):
        """Largest relative error of the gradients of kernel and bias, beside float32."""
        _, found, _ = outputs(module, jnp.bfloat16)
        # The same numbers, exactly as bfloat16 has them, in float32.
        keys = jax.random.split(jax.random.key(0), 3)
        x = jax.random.normal(keys[0], (4, 64, 8)).astype(jnp.bfloat16).astype(jnp.float32)
        g = jax.random.normal(keys[2], (4, 64, 5)).astype(jnp.bfloat16).astype(jnp.float32)
        exact = {"kernel": jnp.einsum("bnd,bnk->dk", x, g), "bias": g.sum((0, 1))}
        errors = jax.tree.map(
            lambda a, b: jnp.max(jnp.abs(a - b) / jnp.abs(b)), found["params"], exact
        )
        return max(map(float, errors.values()))

    assert off(Dense) < 1e-5
    assert off(nn.Dense) > 1e-3, "or there was nothing to mend"


def test_output_is_in_the_compute_dtype_and_parameters_are_float32():
    x = jnp.zeros((2, 8))
    layer = Dense(5, dtype=jnp.bfloat16)
    params = layer.init(jax.random.key(0), x)["params"]
    assert {p.dtype.name for p in params.values()} == {"float32"}
    assert layer.apply({"params": params}, x).dtype == jnp.bfloat16
