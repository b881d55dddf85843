"""Equation 4 of RePre: where learned weights come to rest, and fixed ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from repre_jax.losses.weighting import learned_weights


def total(log_variance, contrast, reconstruct):
    weights = learned_weights(**log_variance)
    return weights.framework * contrast + weights.reconstruct * reconstruct + weights.regulariser


@pytest.mark.parametrize(("contrast", "reconstruct"), [(2.5, 0.07), (0.4, 0.9), (9.0, 0.011)])
def test_gradient_descent_reaches_the_optimum(contrast, reconstruct):
    @jax.jit
    def descend(log_variance):
        def step(_, s):
            gradient = jax.grad(total)(s, contrast, reconstruct)
            return jax.tree.map(lambda x, g: x - 0.3 * g, s, gradient)

        return jax.lax.fori_loop(0, 500, step, log_variance)

    s = descend({"framework": jnp.float32(0), "reconstruct": jnp.float32(0)})
    np.testing.assert_allclose(s["framework"], np.log(2 * contrast), atol=1e-4)
    np.testing.assert_allclose(s["reconstruct"], np.log(reconstruct), atol=1e-4)
    weights = learned_weights(**s)
    np.testing.assert_allclose(weights.framework, 1 / (2 * contrast), rtol=1e-3)
    np.testing.assert_allclose(weights.reconstruct, 1 / reconstruct, rtol=1e-3)
