"""Layers of attention by cuDNN, with JAX's own attention in the place of the card's."""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_config, tiny_learner

from repre_jax.models import attention, cudnn_attention
from repre_jax.models.attention import best_length, window_attention
from repre_jax.models.cudnn_attention import takes
from repre_jax.models.dense import Linear
from repre_jax.training.learner import remarks

HEADS, WIDTH = 3, 12


def parameters():
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = (WIDTH, 3 * WIDTH), (3 * WIDTH,), (WIDTH, WIDTH), (WIDTH,)
    values = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]
    return Linear(*values[:2]), Linear(*values[2:])


def check_same(layer, other, seen, *inputs):
    """Values of the tokens that are seen, and gradients, of [B, ..., N, D] and the parameters."""
    weights = jax.random.normal(jax.random.key(1), inputs[0].shape)
    weights = weights.at[..., seen:, :].set(0)

    def results(layer):
        def loss(*inputs):
            y = layer(*inputs)
            return jnp.sum(weights * y), y[..., :seen, :]

        every = tuple(range(len(inputs)))
        return jax.jit(jax.value_and_grad(loss, argnums=every, has_aux=True))(*inputs)

    for own, expected in zip(
        jax.tree.leaves(results(layer)), jax.tree.leaves(results(other)), strict=True
    ):
        np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-4)


def by_cudnn(x, qkv, out, bias_of=None, seen=None):
    return cudnn_attention.self_attention(
        x, qkv, out, HEADS, seen or x.shape[1], bias_of, implementation="xla"
    )


def test_without_cudnn_it_is_not_asked():
    """This Python has no CUDA plugin, and an NVIDIA card would get what other accelerators get."""
    assert not takes(8, jnp.bfloat16)
    assert best_length(7, 2, 8, jnp.bfloat16) == 7


def added_to_logits(query, table):
    """[B, N, H, D / H] and [D / H, N] -> [B, H, N, N]."""
    return jnp.einsum("bnhd,ds->bhns", query, table[:, : query.shape[1]])


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("tokens", "seen"), [(8, 8), (7, 7), (8, 7), (9, 7)])
def test_a_layer_is_one_in_steps(tokens, seen, biased):
    x = jax.random.normal(jax.random.key(2), (2, tokens, WIDTH)).at[:, seen:].set(0)
    inputs = [x, *parameters(), jax.random.normal(jax.random.key(3), (WIDTH // HEADS, tokens))]

    def added(table):
        return functools.partial(added_to_logits, table=table) if biased else None

    check_same(
        lambda x, qkv, out, table: by_cudnn(x, qkv, out, added(table), seen),
        lambda x, qkv, out, table: attention.self_attention(x, qkv, out, HEADS, seen, added(table)),
        seen,
        *inputs,
    )


def handed_over(tokens, seen, bias_of, monkeypatch):
    """The options that JAX's attention gets."""
    found, real = [], jax.nn.dot_product_attention

    def attend(*inputs, **options):
        found.append(options)
        return real(*inputs, **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", attend)
    by_cudnn(jnp.ones((2, tokens, WIDTH)), *parameters(), bias_of, seen)
    (options,) = found
    return options


@pytest.mark.parametrize(("tokens", "seen"), [(8, 8), (7, 7), (8, 7), (9, 7)])
def test_no_query_sees_nothing_and_none_what_is_unseen(tokens, seen, monkeypatch):
    """Of rows below -88.7 cuDNN has made gradients that are no numbers."""
    added = jax.random.normal(jax.random.key(2), (1, HEADS, seen, seen))
    bias = handed_over(tokens, seen, lambda query: added, monkeypatch)["bias"]
    assert bias.shape[-2:] == (tokens + tokens % 2,) * 2
    assert np.all(jax.nn.logsumexp(bias, axis=-1) > -88)
    assert not np.any(jax.nn.softmax(bias)[..., seen:])


@pytest.mark.parametrize(("tokens", "seen"), [(8, 8), (7, 7), (9, 7)])
def test_without_a_bias_lengths_are_always_told(tokens, seen, monkeypatch):
    """Without them cuDNN has made gradients of even numbers of tokens that are no numbers."""
    options = handed_over(tokens, seen, None, monkeypatch)
    for name in ("query_seq_lengths", "key_value_seq_lengths"):
        assert options[name].tolist() == [seen, seen] and options[name].dtype == jnp.int32


@pytest.mark.parametrize("own_bias", [False, True])
def test_windows_are_heads(own_bias, monkeypatch):
    """Of windows of an odd number of tokens, with one bias for all or each with its own."""
    windows, tokens = 4, 9
    x = jax.random.normal(jax.random.key(2), (2, windows, tokens, WIDTH))
    shape = (windows if own_bias else 1, HEADS, tokens, tokens)
    bias = jax.random.normal(jax.random.key(3), shape)

    def as_on_a_card(x, qkv, out, bias):
        with monkeypatch.context() as patched:
            patched.setattr(cudnn_attention, "takes", lambda *_: True)
            patched.setattr(
                jax.lax, "platform_dependent", lambda *inputs, cuda, default: cuda(*inputs)
            )
            whole = functools.partial(cudnn_attention.self_attention, implementation="xla")
            patched.setattr(cudnn_attention, "self_attention", whole)
            return window_attention(x, qkv, out, HEADS, bias)

    def in_steps(x, qkv, out, bias):
        return window_attention(x, qkv, out, HEADS, bias)

    check_same(as_on_a_card, in_steps, tokens, x, *parameters(), bias)


def test_a_card_without_cudnn_is_told_of(monkeypatch):
    learner = tiny_learner(tiny_config("simclr"))
    bfloat16 = learner.encoder.clone(dtype=jnp.bfloat16)
    clock = SimpleNamespace(total_steps=10**6)
    resolution = SimpleNamespace(clock=clock, batch_size=8, remarks=[])
    both = [learner, dataclasses.replace(learner, encoder=bfloat16)]
    assert [remarks(resolution, x) for x in both] == [[], []]
    monkeypatch.setattr(cudnn_attention, "platform", lambda: "cuda")
    before, (told,) = (remarks(resolution, x) for x in both)
    assert before == [] and "cuDNN's attention was not found" in told
