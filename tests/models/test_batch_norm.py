"""BatchNorm is flax's with the variance in two passes: values, gradients, running statistics."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from repre_jax.models.batch_norm import BatchNorm


def two_pass(train):
    return nn.BatchNorm(
        use_running_average=not train, momentum=0.9, epsilon=1e-5, use_fast_variance=False
    )


def outcome(module, x, running_mean):
    keys = jax.random.split(jax.random.key(1), 4)
    width = x.shape[-1:]
    params = {"scale": jax.random.normal(keys[0], width), "bias": jax.random.normal(keys[1], width)}
    statistics = {"mean": running_mean, "var": 1 + jax.random.uniform(keys[2], width)}
    weights = jax.random.normal(keys[3], x.shape)

    def loss(params, x):
        variables = {"params": params, "batch_stats": statistics}
        y, changed = module.apply(variables, x, mutable=["batch_stats"])
        return jnp.sum(weights * y), (y, changed)

    return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, x)


@pytest.fixture(params=[1, 8], ids=["alone", "shared"], autouse=True)
def devices(request):
    """As ``compiled.jitted_step`` says who shares a step; nothing is split here."""
    with jax.sharding.use_abstract_mesh(AbstractMesh((request.param,), ("batch",))):
        yield request.param


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("near", [True, False], ids=["running mean near", "running mean zero"])
def test_values_gradients_and_statistics(train, near):
    keys = jax.random.split(jax.random.key(0), 2)
    means = 4 * jax.random.normal(keys[0], (5,))
    x = means + jax.random.normal(keys[1], (6, 3, 5))
    running_mean = means if near else jnp.zeros_like(means)
    ours, theirs = (
        outcome(module, x, running_mean) for module in (BatchNorm(train), two_pass(train))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), ours, theirs)


def test_far_means_lose_digits_only_until_the_running_mean_is_near(devices):
    x = 1000 + jax.random.normal(jax.random.key(0), (64, 3))
    (_, (y, _)), (_, (exact, _)) = (
        outcome(module, x, jnp.full(3, 999.0)) for module in (BatchNorm(True), two_pass(True))
    )
    tolerance = 1e-3 if devices > 1 else 1e-4
    np.testing.assert_allclose(y, exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("options", [{"use_scale": False}, {"use_bias": False}])
def test_what_it_has_is_what_is_asked_for(options):
    variables = BatchNorm(True, **options).init(jax.random.key(0), jnp.zeros((2, 5)))
    (absent,) = (name.removeprefix("use_") for name in options)
    assert set(variables["params"]) == {"scale", "bias"} - {absent}
    assert set(variables["batch_stats"]) == {"mean", "var"}
