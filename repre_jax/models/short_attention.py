"""Attention of short sequences on a TPU: a kernel that holds all pairs of tokens on the chip.

A program is an image: its queries, keys and values are read once, and for one head after the other
the whole N x N is made, used and forgotten in VMEM. Nothing is kept for the gradient but what came
in: the pairs are made again there. JAX's own TPU kernels (``jax.experimental.pallas.ops.tpu``,
flash and splash attention) want heads as arrays of their own, of which one of 32 or 64 channels
takes the memory of 128, and are made for sequences that do not fit the chip.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.sharding import PartitionSpec

# Bytes of VMEM for one program; the compiler's own limit is 16 MiB where no other is asked for.
_ROOM = 14 * 2**20
_ROWS, _LANES = 16, 128  # tile of a bfloat16 array


def takes(qkv: jax.Array) -> bool:
    """Whether [B, N, 3, H, D / H] is bfloat16, everything of an image fits the chip, and JAX has a
    mesh that shares the images: a compiler cannot split a kernel among devices by itself.
    """
    batch, tokens, _, heads, head_width = qkv.shape
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or batch % mesh.size:
        return False
    rows, pairs = _up(tokens, _ROWS), _up(tokens, _ROWS) * _up(tokens, _LANES)
    # Of the backward pass: q, k, v and their gradients and the output's, each twice, as one image
    # is read while another is computed; and of a head about six N x N in float32.
    taken = 2 * 2 * rows * 7 * _up(heads * head_width, _LANES) + 6 * 4 * pairs
    return qkv.dtype == jnp.bfloat16 and head_width % 8 == 0 and taken <= _ROOM


def attend(qkv: jax.Array) -> jax.Array:
    """softmax(q k / sqrt(D / H)) v: bfloat16 [B, N, 3, H, D / H] -> [B, N, H, D / H]."""
    batch, tokens, _, heads, head_width = qkv.shape
    attended = _attend(qkv.reshape(batch, tokens, -1), heads)
    return attended.reshape(batch, tokens, heads, head_width)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _attend(qkv, heads):
    """[B, N, 3 D] -> [B, N, D]."""
    return _by_image(functools.partial(forward, heads=heads))(qkv)


def _backward_rule(heads, qkv, gradient):
    return (_by_image(functools.partial(backward, heads=heads))(qkv, gradient),)


_attend.defvjp(lambda qkv, heads: (_attend(qkv, heads), qkv), _backward_rule)


def forward(qkv: jax.Array, heads: int, *, interpret: bool = False) -> jax.Array:
    """[B, N, 3 D] -> [B, N, D]; ``interpret`` runs the kernel where there is no TPU."""
    return _call(_forward_kernel, heads, interpret, qkv.shape[-1] // 3, qkv)


def backward(
    qkv: jax.Array, gradient: jax.Array, heads: int, *, interpret: bool = False
) -> jax.Array:
    """[B, N, 3 D] and the gradient of what ``forward`` makes of it -> [B, N, 3 D]."""
    return _call(_backward_kernel, heads, interpret, qkv.shape[-1], qkv, gradient)


def _call(kernel, heads, interpret, width, *arrays):
    """A program for every image, which has everything of it."""
    batch, tokens, _ = arrays[0].shape

    def image(width):
        return pl.BlockSpec((1, tokens, width), lambda b: (b, 0, 0))

    return pl.pallas_call(
        functools.partial(kernel, heads=heads),
        grid=(batch,),
        in_specs=[image(x.shape[-1]) for x in arrays],
        out_specs=image(width),
        out_shape=jax.ShapeDtypeStruct((batch, tokens, width), arrays[0].dtype),
        interpret=interpret,
    )(*arrays)


def _forward_kernel(qkv, attended, *, heads):
    for own, (of_query, of_key, of_value) in _of_heads(attended.shape[-1], heads):
        value = qkv[0, :, of_value]
        weights, total = _unnormalised(qkv[0, :, of_query], qkv[0, :, of_key])
        mixed = _product(weights.astype(value.dtype), value, (1, 0)) / total
        attended[0, :, own] = mixed.astype(attended.dtype)


def _backward_kernel(qkv, gradient, of_qkv, *, heads):
    for own, parts in _of_heads(gradient.shape[-1], heads):
        query, key, value = (qkv[0, :, part] for part in parts)
        of_attended = gradient[0, :, own]
        weights, total = _unnormalised(query, key)
        weights = weights / total
        of_value = _product(weights.astype(value.dtype), of_attended, (0, 0))
        product = weights * _product(of_attended, value, (1, 1))
        of_logits = product - weights * jnp.sum(product, axis=-1, keepdims=True)
        scaled = (of_logits * query.shape[-1] ** -0.5).astype(query.dtype)
        found = _product(scaled, key, (1, 0)), _product(scaled, query, (0, 0)), of_value
        for part, x in zip(parts, found, strict=True):
            of_qkv[0, :, part] = x.astype(of_qkv.dtype)


def _of_heads(width, heads):
    """For each head its channels of [..., D], and its query's, key's and value's of [..., 3 D]."""
    for start in range(0, width, width // heads):
        places = [slice(s, s + width // heads) for s in range(start, 3 * width, width)]
        yield places[0], places


def _unnormalised(query, key):
    """float32 ([N, N], its sums [N, 1]), whose ratio are the weights."""
    logits = _product(query, key, (1, 1)) * query.shape[-1] ** -0.5
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    return weights, jnp.sum(weights, axis=-1, keepdims=True)


def _product(left, right, contracted):
    """Matrix product over one axis of each, float32."""
    axes = tuple((axis,) for axis in contracted)
    return jax.lax.dot_general(left, right, (axes, ((), ())), preferred_element_type=jnp.float32)


def _up(size, multiple):
    return -(-size // multiple) * multiple


def _by_image(function):
    """``function`` on every device's own images; a compiler cannot split a kernel by itself."""

    def on_all(*arrays):
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.size == 1:
            return function(*arrays)
        rows = PartitionSpec(mesh.axis_names)
        return jax.shard_map(function, in_specs=rows, out_specs=rows, check_vma=False)(*arrays)

    return on_all
