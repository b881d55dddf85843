"""The kernel of TPUs, interpreted, is the attention of everything else."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from repre_jax.models import short_attention
from repre_jax.models.attention import attend, attend_in_windows

BATCH, HEADS, WIDTH = 2, 3, 24
# Of a bias: images and windows that have their own.
BIASES = [None, (1, 1), (BATCH, 1), (1, 6)]


def inputs(tokens, seen, dtype, own):
    """Of one window, or of six, of which three are a program's; the unseen are no numbers."""
    windows = own[1] if own else 1
    keys = jax.random.split(jax.random.key(0), 3)
    qkv = 2 * jax.random.normal(keys[0], (BATCH, windows, tokens, 3 * WIDTH))
    gradient = jax.random.normal(keys[1], (BATCH, windows, tokens, WIDTH))
    bias = own and jax.random.normal(keys[2], (*own, HEADS, seen, seen))
    qkv, gradient = (x.at[:, :, seen:].set(jnp.nan).astype(dtype) for x in (qkv, gradient))
    return qkv, bias, gradient


def plain(qkv, bias, seen):
    """[B, W, N, 3 D] -> [B, W, N, D] in float32, as a CPU does it."""

    def in_window(qkv, bias):
        parts = qkv.astype(jnp.float32).reshape(*qkv.shape[:2], 3, HEADS, -1)
        return attend(parts, bias, seen).reshape(*qkv.shape[:2], -1)

    shared = bias is None or bias.shape[1] == 1
    bias = bias[:, 0] if bias is not None and shared else bias
    return jax.vmap(in_window, in_axes=(1, None if shared else 1), out_axes=1)(qkv, bias)


def cases():
    """(tokens, seen, own, dtype); slow where more than one of them is another than usual."""
    for tokens, own, dtype in itertools.product((8, 5, 16), BIASES, (jnp.float32, jnp.bfloat16)):
        unusual = (tokens != 8) + (own in [(1, 1), (BATCH, 1)]) + (dtype == jnp.bfloat16)
        marks = pytest.mark.slow if unusual > 1 else ()
        yield pytest.param(tokens, 5 if tokens == 8 else tokens, own, dtype, marks=marks)


@pytest.mark.parametrize(("tokens", "seen", "own", "dtype"), [*cases()])
def test_values_and_gradients(tokens, seen, own, dtype):
    tolerance = {jnp.float32: 1e-5, jnp.bfloat16: 0.03}[dtype]
    options = {"heads": HEADS, "seen": seen, "interpret": True}

    @jax.jit
    def both(qkv, bias, gradient):
        values = short_attention.forward(qkv, bias, **options)
        found = short_attention.backward(qkv, bias, gradient, **options)
        expected, of_plain = jax.vjp(lambda *x: plain(*x, seen), qkv.astype(jnp.float32), bias)
        return values, found, expected, of_plain(gradient.astype(jnp.float32))

    values, found, expected, of_plain = both(*inputs(tokens, seen, dtype, own))
    assert not np.any(values[:, :, seen:]) and not np.any(found[0][:, :, seen:])
    assert values.dtype == found[0].dtype == dtype
    close = {"rtol": tolerance, "atol": tolerance}
    np.testing.assert_allclose(np.float32(values), expected, **close)
    for ours, theirs in zip(found, of_plain, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            np.testing.assert_allclose(np.float32(ours), theirs, **close)


def test_a_bias_of_all_windows_gets_the_sum_of_theirs():
    """In windows that share one, as those of a Swin do where nothing shifts."""
    qkv, bias, gradient = inputs(5, 5, jnp.float32, (1, 6))
    same = jnp.broadcast_to(bias[:, :1], bias.shape)
    options = {"heads": HEADS, "seen": 5, "interpret": True}
    expected = short_attention.backward(qkv, same, gradient, **options)
    found = short_attention.backward(qkv, bias[:, :1], gradient, **options)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-6)
    summed = expected[1].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found[1], summed, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (None, ["parallel", "parallel"]),
        ((BATCH, 1), ["parallel", "parallel"]),
        ((1, 6), ["parallel", "arbitrary"]),
        ((1, 1), ["arbitrary", "arbitrary"]),
    ],
)
def test_two_cores_divide_what_is_not_summed(own, expected, monkeypatch):
    """Those of a v4 or v5p; an axis of the grid that they may divide comes first."""
    called, real = [], short_attention.pl.pallas_call

    def record(kernel, **options):
        called.append(list(options["compiler_params"].dimension_semantics))
        return real(kernel, **options)

    monkeypatch.setattr(short_attention.pl, "pallas_call", record)
    windows = 1 if own == (BATCH, 1) else 6
    qkv, _, gradient = inputs(5, 5, jnp.float32, (1, windows))
    bias = own and jnp.zeros((*own, HEADS, 5, 5))
    options = {"heads": HEADS, "seen": 5, "interpret": True}
    jax.eval_shape(functools.partial(short_attention.forward, **options), qkv, bias)
    jax.eval_shape(functools.partial(short_attention.backward, **options), qkv, bias, gradient)
    assert called == [["parallel", "parallel"], expected]


def taken(batch, *shape, windows=1, bias=None, dtype=jnp.bfloat16, devices=1):
    mesh = Mesh(jax.devices()[:devices], ("batch",))
    qkv = jax.ShapeDtypeStruct((batch, windows, *shape), dtype)
    if bias is not None:
        bias = jax.ShapeDtypeStruct((*bias, shape[2], shape[0], shape[0]), jnp.float32)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return short_attention.takes(qkv, bias)


def test_what_it_takes_is_decided_by_shapes():
    assert taken(256, 197, 3, 12, 32) and taken(64, 197, 3, 16, 64) and taken(64, 257, 3, 16, 80)
    assert not taken(256, 785, 3, 6, 64), "all pairs of a head do not fit the chip"
    assert not taken(256, 197, 3, 12, 32, dtype=jnp.float32)
    assert not taken(256, 197, 3, 4, 30), "heads that are no whole number of sublanes"
    assert not taken(7, 197, 3, 12, 32, devices=2), "devices that cannot share seven images"
    assert not short_attention.takes(jax.ShapeDtypeStruct((8, 1, 9, 3, 2, 8), jnp.bfloat16))


def test_stages_of_a_swin_are_taken():
    for windows, heads in ((64, 3), (16, 6), (4, 12), (1, 24)):
        assert taken(64, 49, 3, heads, 32, windows=windows, bias=(1, windows))
        assert taken(64, 49, 3, heads, 32, windows=windows, bias=(1, 1))


@pytest.mark.parametrize("own", [None, (4,), (1,), (1, 1), (1, 2)])
def test_a_tpu_gets_it_and_a_cpu_does_not(own):
    """In a program for a TPU, shared by two: kernels there, on each device's own images.

    For a bias [B or 1, ...] of whole images, or [1, W or 1, ...] of two windows.
    """
    mesh = Mesh(jax.devices()[:2], ("batch",))
    windows = (2,) if own and len(own) == 2 else ()
    qkv = jax.ShapeDtypeStruct((4, *windows, 9, 3, 2, 8), jnp.bfloat16)
    bias = own and jax.ShapeDtypeStruct((own[-1], 2, 5, 5), jnp.float32)
    function = attend_in_windows if windows else attend

    def gradient(qkv, bias):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            loss = lambda *x: jnp.sum(function(*x, 5).astype(jnp.float32))  # noqa: E731
            return jax.grad(loss, argnums=(0, 1))(qkv, bias)

    def calls(platform):
        traced = jax.jit(gradient).trace(qkv, bias)
        return traced.lower(lowering_platforms=(platform,)).as_text().count("tpu_custom_call")

    assert calls("tpu") >= 1 and calls("cpu") == 0


@pytest.mark.parametrize(
    "own",
    [
        (1, 1),
        (BATCH, 1),
        *(pytest.param(own, marks=pytest.mark.slow) for own in (None, (1, 6))),
    ],
)
def test_two_devices_are_one(own, monkeypatch):
    """Each with its own images; they add up the gradient of a bias that is the same for all."""
    for name in ("forward", "backward"):
        kernel = functools.partial(getattr(short_attention, name), interpret=True)
        monkeypatch.setattr(short_attention, name, kernel)
    qkv, bias, gradient = inputs(5, 5, jnp.float32, own)

    def results(devices):
        mesh = Mesh(jax.devices()[:devices], ("batch",))

        def run(qkv, bias):
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                values, backward = jax.vjp(
                    lambda *x: short_attention._attend(*x, HEADS, 5), qkv, bias
                )
                return values, backward(gradient)

        rows = NamedSharding(mesh, PartitionSpec("batch"))
        return jax.jit(run)(jax.device_put(qkv, rows), bias)

    for one, two in zip(jax.tree.leaves(results(1)), jax.tree.leaves(results(2)), strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-5)
