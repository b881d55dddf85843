"""The kernel of TPUs, interpreted, is the attention of everything else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from repre_jax.models import short_attention
from repre_jax.models.attention import attend

BATCH, HEADS, WIDTH = 2, 3, 24


def inputs(tokens, dtype):
    keys = jax.random.split(jax.random.key(0))
    qkv = 2 * jax.random.normal(keys[0], (BATCH, tokens, 3 * WIDTH))
    return qkv.astype(dtype), jax.random.normal(keys[1], (BATCH, tokens, WIDTH)).astype(dtype)


def plain(qkv):
    """[B, N, 3 D] -> [B, N, D] in float32, as a CPU does it."""
    parts = qkv.astype(jnp.float32).reshape(*qkv.shape[:2], 3, HEADS, -1)
    return attend(parts).reshape(*qkv.shape[:2], -1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 0.03)])
@pytest.mark.parametrize("tokens", [5, 16])
def test_values_and_gradients(tokens, dtype, tolerance):
    qkv, gradient = inputs(tokens, dtype)
    expected, backward = jax.vjp(plain, qkv.astype(jnp.float32))
    values = short_attention.forward(qkv, HEADS, interpret=True)
    gradients = short_attention.backward(qkv, gradient, HEADS, interpret=True)
    assert values.dtype == gradients.dtype == dtype
    close = {"rtol": tolerance, "atol": tolerance}
    np.testing.assert_allclose(np.float32(values), expected, **close)
    expected = backward(gradient.astype(jnp.float32))[0]
    np.testing.assert_allclose(np.float32(gradients), expected, **close)


def taken(*shape, dtype=jnp.bfloat16, devices=1):
    mesh = Mesh(jax.devices()[:devices], ("batch",))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return short_attention.takes(jax.ShapeDtypeStruct(shape, dtype))


def test_what_it_takes_is_decided_by_shapes():
    assert taken(256, 197, 3, 12, 32) and taken(64, 197, 3, 16, 64) and taken(64, 257, 3, 16, 80)
    assert not taken(256, 785, 3, 6, 64), "all pairs of a head do not fit the chip"
    assert not taken(256, 197, 3, 12, 32, dtype=jnp.float32)
    assert not taken(256, 197, 3, 4, 30), "heads that are no whole number of sublanes"
    assert not taken(7, 197, 3, 12, 32, devices=2), "devices that cannot share seven images"
    assert not short_attention.takes(jax.ShapeDtypeStruct((8, 9, 3, 2, 8), jnp.bfloat16)), "no mesh"


def test_a_tpu_gets_it_and_a_cpu_does_not():
    """In a program for a TPU, shared by two: a kernel there, on each device's own images."""
    mesh = Mesh(jax.devices()[:2], ("batch",))
    qkv = jax.ShapeDtypeStruct((4, 9, 3, 2, 8), jnp.bfloat16)

    def gradient(qkv):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return jax.grad(lambda qkv: jnp.sum(attend(qkv).astype(jnp.float32)))(qkv)

    def calls(platform):
        traced = jax.jit(gradient).trace(qkv)
        return traced.lower(lowering_platforms=(platform,)).as_text().count("tpu_custom_call")

    assert calls("tpu") >= 1 and calls("cpu") == 0
