"""Attention of short sequences on a TPU: a kernel that holds all pairs of tokens on the chip.

A program is an image, or some of its windows: its queries, keys and values are read once, and for
one head after the other the whole N x N is made, used and forgotten in VMEM. Nothing is kept for
the gradient but what came in: the pairs are made again there. JAX's own TPU kernels
(``jax.experimental.pallas.ops.tpu``, flash and splash attention) want heads as arrays of their own,
of which one of 32 or 64 channels takes the memory of 128, and are made for sequences that do not
fit the chip.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec

# Bytes of VMEM that the arrays of a program may take, as ``fits`` counts them. The compiler's limit
# is 16 MiB where no other is asked for; the rest is for what it keeps besides.
_ROOM = 14 * 2**20
_ROWS, _LANES = 16, 128  # tile of a bfloat16 array
# Heads that a program of several windows has at most. To start one takes time, and to compile one,
# too, as its heads are written out one after the other. No TPU has been asked for a better number.
_HEADS = 12


def takes(qkv: jax.Array, bias: jax.Array | None = None) -> bool:
    """Whether ``attend`` takes arrays of these shapes.

    They must fit the chip, and be ``divided``.
    """
    batch, windows, tokens, _, heads, head_width = qkv.shape
    if not divided(batch):
        return False
    together, of_bias = _together(windows, heads), 0
    if bias is not None:
        own = together if bias.shape[1] > 1 else 1
        of_bias = 2 * own * heads * _pairs(tokens) * (bias.dtype.itemsize + 4)
    return fits(tokens, heads, head_width, qkv.dtype, together, of_bias)


def divided(batch: int) -> bool:
    """Whether JAX has a mesh, and its devices equal parts of so many images.

    A compiler cannot split a kernel among devices by itself.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and batch % mesh.size == 0


def fits(
    tokens: int,
    heads: int,
    head_width: int,
    dtype: jnp.dtype,
    windows: int = 1,
    of_bias: int = 0,
) -> bool:
    """Whether bfloat16 arrays of a program fit the chip.

    Args:
      tokens, heads, head_width: of one window.
      dtype: of the arrays.
      windows: of the program.
      of_bias: bytes of bias and its gradient.
    """
    width = _up(heads * head_width, _LANES)
    # Of the backward pass: q, k, v and their gradients and the output's, each twice, as one program
    # is read while another is computed; and of a head about six N x N in float32.
    taken = 2 * 2 * windows * _up(tokens, _ROWS) * 7 * width + 6 * 4 * _pairs(tokens) + of_bias
    return dtype == jnp.bfloat16 and head_width % 8 == 0 and taken <= _ROOM


def _pairs(tokens):
    return _up(tokens, _ROWS) * _up(tokens, _LANES)


def attend(qkv: jax.Array, bias: jax.Array | None, seen: int) -> jax.Array:
    """softmax(q k / sqrt(D / H) + bias) v within each of W windows of N tokens.

    Args:
      qkv: bfloat16 [B, W, N, 3, H, D / H].
      bias: [1, W or 1, H, S, S], or [B, 1, H, S, S] for W = 1, or None.
      seen: S: the first so many tokens of a window attend to each other.

    Returns:
      [B, W, N, H, D / H], zeros after the first S.
    """
    *batch, _, heads, head_width = qkv.shape
    attended = _attend(qkv.reshape(*batch, -1), bias, heads, seen)
    return attended.reshape(*batch, heads, head_width)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _attend(qkv, bias, heads, seen):
    """[B, W, N, 3 D] -> [B, W, N, D]."""
    mesh = jax.sharding.get_abstract_mesh()
    own = functools.partial(forward, heads=heads, seen=seen)
    return _by_image(own, mesh, (qkv, bias), _rows(mesh))


def _forward_rule(qkv, bias, heads, seen):
    return _attend(qkv, bias, heads, seen), (qkv, bias)


def _backward_rule(heads, seen, kept, gradient):
    mesh = jax.sharding.get_abstract_mesh()
    qkv, bias = kept
    shared = bias is not None and len(bias) == 1 and mesh.size > 1

    def own(qkv, bias, gradient):
        of_qkv, of_bias = backward(qkv, bias, gradient, heads=heads, seen=seen)
        if shared:
            of_bias = jax.lax.psum(of_bias, mesh.axis_names)
        return of_qkv, of_bias

    sharings = _rows(mesh), _sharing(bias, mesh)
    of_qkv, of_bias = _by_image(own, mesh, (qkv, bias, gradient), sharings)
    return of_qkv, None if bias is None else of_bias.astype(bias.dtype)


_attend.defvjp(_forward_rule, _backward_rule)


def forward(
    qkv: jax.Array, bias: jax.Array | None, *, heads: int, seen: int, interpret: bool = False
) -> jax.Array:
    """[B, W, N, 3 D] -> [B, W, N, D]; ``interpret`` runs the kernel where there is no TPU."""
    inputs = [qkv] if bias is None else [qkv, bias]
    attended = jax.ShapeDtypeStruct((*qkv.shape[:-1], qkv.shape[-1] // 3), qkv.dtype)
    kernel = functools.partial(_forward_kernel, heads=heads, seen=seen)
    return _call(kernel, heads, 2, interpret, inputs, [attended])[0]


def backward(
    qkv: jax.Array,
    bias: jax.Array | None,
    gradient: jax.Array,
    *,
    heads: int,
    seen: int,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """Gradients [B, W, N, 3 D] and, float32, of the bias, from that of what ``forward`` makes."""
    kernel = functools.partial(_backward_kernel, heads=heads, seen=seen)
    of_qkv = jax.ShapeDtypeStruct(qkv.shape, qkv.dtype)
    if bias is None:
        return _call(kernel, heads, 5, interpret, [qkv, gradient], [of_qkv])[0], None
    # The axes of the grid along which programs add to the same gradient.
    shared = tuple(axis for axis, size in zip((1, 0), bias.shape[:2], strict=True) if size == 1)
    kernel = functools.partial(kernel, shared=shared)
    of_bias = jax.ShapeDtypeStruct(bias.shape, jnp.float32)
    return _call(kernel, heads, 5, interpret, [qkv, gradient, bias], [of_qkv, of_bias], shared)


def _call(kernel, heads, products, interpret, inputs, outputs, shared=()):
    """A program for some windows, one image after the other before the next windows.

    So that the gradient of a bias that images share stays on the chip until all have added to it.
    Two cores that are one device (v4, v5p) divide an axis of the grid. Not one in ``shared``, along
    which programs add to the same: a core's sum would be lost in the other's.
    """
    batch, windows, tokens, width = inputs[0].shape
    together = _together(windows, heads)

    def block(x):
        """Of tokens [B, W, N, ...], or of a bias [B or 1, W or 1, H, N, N]."""
        images, windows = (size > 1 for size in x.shape[:2])
        shape = (1, together if windows else 1, *x.shape[2:])
        rest = (0,) * (len(shape) - 2)
        return pl.BlockSpec(shape, lambda w, b: (b * images, w * windows, *rest))

    grid = (windows // together, batch)
    summed = [axis in shared and size > 1 for axis, size in enumerate(grid)]
    semantics = ["arbitrary" if x else "parallel" for x in summed]
    pairs = batch * windows * tokens**2
    cost = pl.CostEstimate(
        flops=products * 2 * pairs * width // 3,
        transcendentals=pairs * heads,
        bytes_accessed=sum(x.size * x.dtype.itemsize for x in (*inputs, *outputs)),
    )
    return pl.pallas_call(
        kernel,
        grid=grid,
        compiler_params=pltpu.CompilerParams(dimension_semantics=semantics),
        cost_estimate=cost,
        in_specs=[block(x) for x in inputs],
        out_specs=[block(x) for x in outputs],
        out_shape=outputs,
        interpret=interpret,
    )(*inputs)


def _forward_kernel(qkv, *others, heads, seen):
    *bias, attended = others
    _forget(attended, seen)
    for window, head, own, parts in _of_all(qkv, heads):
        query, key, value = (qkv[0, window, :seen, part] for part in parts)
        weights, total = _unnormalised(query, key, *(_of(x, window, head)[...] for x in bias))
        mixed = _product(weights.astype(value.dtype), value, (1, 0)) / total
        attended[0, window, :seen, own] = mixed.astype(attended.dtype)


def _backward_kernel(qkv, gradient, *others, heads, seen, shared=()):
    bias, (of_qkv, *of_bias) = others[: len(others) // 2], others[len(others) // 2 :]
    _forget(of_qkv, seen)
    if of_bias:

        @pl.when(functools.reduce(jnp.logical_and, [pl.program_id(x) == 0 for x in shared]))
        def _():
            of_bias[0][...] = jnp.zeros_like(of_bias[0])

    for window, head, own, parts in _of_all(qkv, heads):
        query, key, value = (qkv[0, window, :seen, part] for part in parts)
        of_attended = gradient[0, window, :seen, own]
        weights, total = _unnormalised(query, key, *(_of(x, window, head)[...] for x in bias))
        weights = weights / total
        of_value = _product(weights.astype(value.dtype), of_attended, (0, 0))
        product = weights * _product(of_attended, value, (1, 1))
        of_logits = product - weights * jnp.sum(product, axis=-1, keepdims=True)
        for x in of_bias:
            _of(x, window, head)[...] += of_logits
        scaled = (of_logits * query.shape[-1] ** -0.5).astype(query.dtype)
        found = _product(scaled, key, (1, 0)), _product(scaled, query, (0, 0)), of_value
        for part, x in zip(parts, found, strict=True):
            of_qkv[0, window, :seen, part] = x.astype(of_qkv.dtype)


def _of_all(qkv, heads):
    """(window, head, its channels of [..., D], its query's, key's and value's of [..., 3 D])."""
    width = qkv.shape[-1] // 3
    for window in range(qkv.shape[1]):
        for head, start in enumerate(range(0, width, width // heads)):
            places = [slice(s, s + width // heads) for s in range(start, 3 * width, width)]
            yield window, head, places[0], places


def _forget(tokens, seen):
    """Zeros in place of the tokens that are not seen: what was there may be no number."""
    batch, windows, length, width = tokens.shape
    if seen < length:
        tokens[:, :, seen:] = jnp.zeros((batch, windows, length - seen, width), tokens.dtype)


def _of(bias, window, head):
    """[N, N] of a block [1, windows or 1, H, N, N]."""
    return bias.at[0, window if bias.shape[1] > 1 else 0, head]


def _unnormalised(query, key, *bias):
    """float32 ([N, N], its sums [N, 1]), whose ratio are the weights."""
    logits = _product(query, key, (1, 1)) * query.shape[-1] ** -0.5
    logits = sum(bias, start=logits)
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    return weights, jnp.sum(weights, axis=-1, keepdims=True)


def _product(left, right, contracted):
    """Matrix product over one axis of each, float32."""
    axes = tuple((axis,) for axis in contracted)
    return jax.lax.dot_general(left, right, (axes, ((), ())), preferred_element_type=jnp.float32)


def _together(windows, heads):
    """How many windows of an image one program has."""
    some = max(_HEADS // heads, 1)
    return max(k for k in range(1, some + 1) if windows % k == 0)


def _up(size, multiple):
    return -(-size // multiple) * multiple


def _by_image(function, mesh, arrays, sharings):
    """``function`` on every device's own images; a compiler cannot split a kernel by itself."""
    if mesh.size == 1:
        return function(*arrays)
    own = tuple(_sharing(x, mesh) for x in arrays)
    return jax.shard_map(function, in_specs=own, out_specs=sharings, check_vma=False)(*arrays)


def _rows(mesh):
    return PartitionSpec(mesh.axis_names)


def _sharing(array, mesh):
    """What has a leading axis of 1 is the same for all images."""
    return None if array is None else _rows(mesh) if len(array) > 1 else PartitionSpec()
