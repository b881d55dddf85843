"""Layers of attention by cuDNN, with JAX's own attention in the place of the card's."""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from tiny import tiny_config, tiny_learner

from repre_jax.models import attention, cudnn_attention, swin, vit
from repre_jax.models.attention import best_length, window_attention
from repre_jax.models.cudnn_attention import takes
from repre_jax.models.dense import Linear
from repre_jax.sharding import by_row, jitted
from repre_jax.training.learner import remarks

HEADS, WIDTH = 3, 12


def parameters():
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = (WIDTH, 3 * WIDTH), (3 * WIDTH,), (WIDTH, WIDTH), (WIDTH,)
    # So small that no softmax is all one number, whose gradient would be rounding errors.
    values = [jax.random.normal(key, shape) / 4 for key, shape in zip(keys, shapes, strict=True)]
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
        x, qkv, out, HEADS, x.shape[1] if seen is None else seen, bias_of, implementation="xla"
    )


@pytest.fixture(autouse=True)
def nothing_is_known():
    """Of what cuDNN takes, before a test and after it."""
    cudnn_attention._refusal.cache_clear()
    yield
    cudnn_attention._refusal.cache_clear()


@pytest.fixture
def card(monkeypatch):
    """A CPU that is taken for a card of NVIDIA's, and JAX's own attention for that of cuDNN."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(cudnn_attention, "platform", lambda: "cuda")
    stand_in(monkeypatch, cudnn_attention._among_first)


def stand_in(monkeypatch, attention):
    """Has ``attention``, of the same arguments, in the place of cuDNN's."""
    monkeypatch.setattr(
        cudnn_attention, "_among_first", lambda seen, _, *inputs: attention(seen, "xla", *inputs)
    )


def test_without_cudnn_it_is_not_taken(monkeypatch):
    """JAX raises what it does where the CUDA plugin is missing."""

    def not_found(*inputs):
        raise RuntimeError("cuDNN is not detected.")

    stand_in(monkeypatch, not_found)
    monkeypatch.setattr(cudnn_attention, "platform", lambda: "cuda")
    assert not takes(8, jnp.bfloat16, False)
    assert best_length(7, 2, 2, 8, jnp.bfloat16, False) == 7
    assert cudnn_attention.misses(8, jnp.bfloat16, False) == "cuDNN is not detected"


def test_a_card_is_asked_once_for_each_kind(card, monkeypatch):
    """While a program is traced for several devices, as its layers ask, and with gradients."""
    found, real = [], cudnn_attention._among_first

    def attend(seen, name, *inputs):
        found.append(inputs)
        return real(seen, name, *inputs)

    stand_in(monkeypatch, attend)
    mesh = Mesh(jax.devices()[:2], ("batch",))

    def layers(x):
        assert all(takes(8, jnp.bfloat16, False) for _ in range(3))
        assert best_length(7, 2, 2, 8, jnp.bfloat16, False) == 8
        return x**2

    program = jitted(jax.grad(jax.checkpoint(lambda x: jnp.sum(layers(x)))), mesh)
    assert program(jax.device_put(jnp.ones(4), by_row(mesh))).tolist() == [2] * 4
    assert [len(inputs) for inputs in found] == [3]
    assert takes(8, jnp.bfloat16, True) and takes(8, jnp.bfloat16, True)
    *_, shared, own = [inputs[-1].shape[0] for inputs in found]
    assert (shared, own, len(found)) == (1, 2, 3)
    assert takes(16, jnp.bfloat16, False) and found[-1][0].shape[-1] == 16


@jax.custom_vjp
def unknown_backwards(query):
    """The identity, with a gradient that no compiler knows."""
    return query


def _unknown(_, gradient):
    return (jax.ffi.ffi_call("no_such_gradient", gradient)(gradient),)


unknown_backwards.defvjp(lambda x: (x, None), _unknown)


def test_what_a_card_does_not_compile_is_not_taken(card, monkeypatch):
    """As of one before Ampere, or of wide heads backwards: the program would not compile either."""
    real = cudnn_attention._among_first

    def attend(seen, name, query, *others):
        return real(seen, name, unknown_backwards(query), *others)

    stand_in(monkeypatch, attend)
    assert not takes(8, jnp.bfloat16, False)
    assert "no_such_gradient" in cudnn_attention.misses(8, jnp.bfloat16, False)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert takes(8, jnp.bfloat16, False), "of a card that is not here nobody knows"


@pytest.mark.parametrize(
    ("make", "biased"),
    [
        (functools.partial(vit.ViT, width=16, depth=1, heads=2), False),
        (functools.partial(vit.ViT, width=16, depth=1, heads=2, position="relative"), True),
        (functools.partial(swin.Swin, embed_width=16, depths=(2,), heads=(2,), window=2), True),
    ],
)
def test_layers_ask_for_what_an_encoder_says(make, biased, monkeypatch):
    """So that what the user is told is what the layers find."""
    encoder = make(patch_size=4, image_size=16, dtype=jnp.bfloat16)
    asked = set()

    def refusal(head_width, dtype, biased):
        asked.add((head_width, jnp.dtype(dtype).name, biased))
        return "No plans"

    monkeypatch.setattr(cudnn_attention, "platform", lambda: "cuda")
    monkeypatch.setattr(cudnn_attention, "refusal", refusal)
    images = jnp.zeros((2, 16, 16, 3))
    jax.eval_shape(encoder.init, jax.random.key(0), images)
    assert asked == {(8, "bfloat16", biased)}
    assert encoder.block_form.head_width == 8 and encoder.block_form.biased == biased


def added_to_logits(query, table):
    """[B, N, H, D / H] and [D / H, N] -> [B, H, N, N]."""
    return jnp.einsum("bnhd,ds->bhns", query, table[:, : query.shape[1]])


@pytest.mark.parametrize(
    ("tokens", "seen", "biased"),
    [
        (7, 7, False),
        (7, 7, True),
        (8, 8, True),
        (8, 7, True),
        (9, 7, False),
        pytest.param(8, 8, False, marks=pytest.mark.slow),
        pytest.param(8, 7, False, marks=pytest.mark.slow),
        pytest.param(9, 7, True, marks=pytest.mark.slow),
    ],
)
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
    found = []

    def attend(query, key, value, **options):
        found.append(options)
        return query

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
    monkeypatch.setattr(cudnn_attention, "refusal", lambda *kind: "No plans")
    assert [remarks(resolution, x) for x in both] == [[], []]
    monkeypatch.setattr(cudnn_attention, "platform", lambda: "cuda")
    before, (told,) = (remarks(resolution, x) for x in both)
    assert before == [] and "heads of 16 channels here (No plans)" in told
    monkeypatch.setattr(cudnn_attention, "refusal", lambda *kind: None)
    assert [remarks(resolution, x) for x in both] == [[], []]
