"""Every way to attend is JAX's own dot-product attention, in values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh
from tiny import random_params

from repre_jax.models import attention, vit
from repre_jax.models.attention import (
    _attend_on_accelerators,
    attend,
    first_token_weights,
    window_attention,
)
from repre_jax.models.dense import Linear


def attend_apart(query, key, value, bias=None):
    return attend(jnp.stack([query, key, value], axis=2), bias)


def check_values_and_gradients(attention, tokens, bias, dtype=jnp.float32, tolerance=1e-5):
    """Beside JAX's own in float32."""
    keys = jax.random.split(jax.random.key(0), 5)
    query, key, value, weights = (jax.random.normal(k, (2, tokens, 3, 4)) for k in keys[:4])
    inputs = [query, key, value]
    if bias:
        inputs.append(jax.random.normal(keys[4], (bias, 3, tokens, tokens)))

    def results(attention, dtype):
        def loss(*inputs):
            query, key, value, *bias = inputs
            tokens = (x.astype(dtype) for x in (query, key, value))
            return jnp.sum(weights * attention(*tokens, *(bias or [None])))

        return jax.jit(jax.value_and_grad(loss, argnums=tuple(range(len(inputs)))))(*inputs)

    for ours, theirs in zip(
        jax.tree.leaves(results(attention, dtype)),
        jax.tree.leaves(results(jax.nn.dot_product_attention, jnp.float32)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("bias", [None, 1, 2])
@pytest.mark.parametrize("tokens", [7, 300])
def test_values_and_gradients(tokens, bias):
    check_values_and_gradients(attend_apart, tokens, bias)


@pytest.mark.parametrize("bias", [None, 1, 2])
def test_values_and_gradients_on_accelerators(bias):
    check_values_and_gradients(_attend_on_accelerators, 7, bias)
    check_values_and_gradients(_attend_on_accelerators, 7, bias, jnp.bfloat16, 0.05)


def test_accelerators_keep_one_array_of_pairs():
    """The weights, in bfloat16, for the gradient."""
    tokens = [jax.ShapeDtypeStruct((2, 7, 3, 4), jnp.bfloat16)] * 3
    kept = jax.eval_shape(lambda *x: jax.vjp(_attend_on_accelerators, *x, None)[1], *tokens)
    pairs = [x for x in jax.tree.leaves(kept) if x.shape == (2, 3, 7, 7)]
    assert [x.dtype.name for x in pairs] == ["bfloat16"]


@pytest.mark.parametrize("bias", [None, 1, 2])
def test_weights_of_the_first_token_are_those_it_is_mixed_with(bias):
    keys = jax.random.split(jax.random.key(0), 4)
    query, key, value = (jax.random.normal(k, (2, 7, 3, 4)) for k in keys[:3])
    added = None if bias is None else jax.random.normal(keys[3], (bias, 3, 7, 7))
    weights = first_token_weights(query, key, added)
    mixed = np.einsum("bhn,bnhd->bhd", weights, value)
    np.testing.assert_allclose(mixed, attend_apart(query, key, value, added)[:, 0], atol=1e-5)


def test_logits_and_softmax_are_float32():
    """In bfloat16 a sum of many weights would stop growing."""
    tokens = 2000
    query = key = jnp.zeros((1, tokens, 1, 2), jnp.bfloat16)
    value = jnp.ones((1, tokens, 1, 2), jnp.bfloat16)
    np.testing.assert_allclose(np.float32(attend_apart(query, key, value)), 1.0, atol=0.01)


@pytest.mark.parametrize("position", ["learned", "relative"])
def test_an_encoder_with_an_unseen_token_is_the_same(position, monkeypatch):
    """As on NVIDIA's cards, where an odd number of tokens gets one more, and on TPUs."""
    encoder = vit.ViT(patch_size=4, width=16, depth=2, heads=2, image_size=8, position=position)
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    params = random_params(encoder, images)

    def results():
        def loss(params):
            output, sown = encoder.apply({"params": params}, images, mutable=["intermediates"])
            return jnp.sum(output.tokens[..., 0]) + jnp.sum(output.pooled**2), (output, sown)

        return jax.tree.leaves(jax.jit(jax.value_and_grad(loss, has_aux=True))(params))

    expected = results()
    monkeypatch.setattr(attention, "best_length", lambda tokens, *_: tokens + tokens % 2)
    lengths = []
    real = attention.self_attention
    monkeypatch.setattr(
        "repre_jax.models.layers.self_attention",
        lambda x, *rest: lengths.append((x.shape[1], rest[-2])) or real(x, *rest),
    )
    for ours, theirs in zip(results(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    assert lengths == [(6, 5)] * 2


@pytest.mark.parametrize(("images", "devices", "expected"), [(8, 2, 200), (7, 2, 197), (8, 0, 197)])
def test_a_tpu_gets_unseen_tokens_where_its_kernel_takes_the_images(
    images, devices, expected, monkeypatch
):
    monkeypatch.setattr(attention, "platform", lambda: "tpu")
    mesh = AbstractMesh((devices,), ("batch",)) if devices else AbstractMesh((), ())
    with jax.sharding.use_abstract_mesh(mesh):
        assert attention.best_length(197, images, 6, 64, jnp.bfloat16, False) == expected


@pytest.mark.parametrize("windows", [1, 4])
def test_windows_with_unseen_tokens_are_the_same(windows, monkeypatch):
    keys = jax.random.split(jax.random.key(0), 6)
    shapes = (2, 4, 9, 12), (12, 36), (36,), (12, 12), (12,), (windows, 3, 9, 9)
    x, *linears, bias = (jax.random.normal(k, shape) for k, shape in zip(keys, shapes, strict=True))
    inputs = x, Linear(*linears[:2]), Linear(*linears[2:]), bias

    def results():
        def loss(x, qkv, out, bias):
            y = window_attention(x, qkv, out, 3, bias)
            return jnp.sum(jnp.sin(y)), y

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True))(*inputs)

    expected = results()
    monkeypatch.setattr(attention, "best_length", lambda tokens, *_: -(-tokens // 8) * 8)
    for ours, theirs in zip(jax.tree.leaves(results()), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
