"""Scaled dot-product attention, as fast as each kind of device has it."""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from repre_jax.models import cudnn_attention, short_attention
from repre_jax.models.cudnn_attention import BiasOf
from repre_jax.models.dense import Linear, linear
from repre_jax.rematerialisation import KEPT
from repre_jax.sharding import platform

# Tokens from which a CPU is faster head by head: their logits then no longer fit its cache.
_MANY_TOKENS = 256


def self_attention(
    x: jax.Array,
    qkv: Linear,
    out: Linear,
    heads: int,
    seen: int | None = None,
    bias_of: BiasOf | None = None,
) -> jax.Array:
    """A layer of attention with its projections: [B, N, D] in the compute dtype -> the same.

    On NVIDIA's cards, in bfloat16, it is cuDNN's where that takes the heads (``cudnn_attention``),
    which is decided when the program is traced.

    Args:
      x: [B, N, D].
      qkv: D -> 3 D, queries, keys and values of all heads.
      out: D -> D.
      heads: H.
      seen: the first so many tokens attend to each other; of the others the result has no meaning.
        None for all.
      bias_of: what is added to the scaled logits, of the queries of the tokens that are seen.
    """
    if seen is None:
        seen = x.shape[1]

    def in_steps(x, qkv, out):
        parts = queries_keys_values(x, qkv, heads)
        bias = None if bias_of is None else bias_of(parts[:, :seen, 0])
        return projected(attend(parts, bias, seen), out)

    def by_cudnn(x, qkv, out):
        return cudnn_attention.self_attention(x, qkv, out, heads, seen, bias_of)

    biased = bias_of is not None
    return _by_cudnn_or(in_steps, by_cudnn, biased, heads, x, qkv, out)


def window_attention(
    x: jax.Array, qkv: Linear, out: Linear, heads: int, bias: jax.Array
) -> jax.Array:
    """``self_attention`` inside each of W windows of N tokens: [B, W, N, D] -> the same.

    The batch stays the leading axis throughout, so that one that is sharded over devices stays
    where it is.

    Args:
      x, qkv, out, heads: as of ``self_attention``, but for the windows.
      bias: [1 or W, H, N, N], added to the scaled logits of every example.
    """
    windows, seen = x.shape[1:3]
    x = padded(x, heads, x.dtype, biased=True)

    def in_steps(x, qkv, out, bias):
        parts = queries_keys_values(x, qkv, heads)
        return projected(attend_in_windows(parts, bias, seen), out)

    def by_cudnn(x, qkv, out, bias):
        def bias_of(query):
            """[1, W H, N, N]: windows are heads, and the same for any image's queries."""
            del query
            each = jnp.broadcast_to(bias, (windows, *bias.shape[1:]))
            return each.reshape(1, -1, seen, seen)

        x = jnp.swapaxes(x, 1, 2)
        x = cudnn_attention.self_attention(x, qkv, out, heads, seen, bias_of)
        return jnp.swapaxes(x, 1, 2)

    return _by_cudnn_or(in_steps, by_cudnn, True, heads, x, qkv, out, bias)[:, :, :seen]


def padded(x: jax.Array, heads: int, dtype: jnp.dtype, biased: bool = False) -> jax.Array:
    """Tokens [B, ..., N, D], zeros behind them up to their ``best_length``.

    Args:
      x: of any dtype.
      heads: H.
      dtype: that the attention computes in.
      biased: whether something is added to its logits.
    """
    tokens, width = x.shape[-2:]
    length = best_length(tokens, x.shape[0], heads, width // heads, dtype, biased)
    return jnp.pad(x, (*((0, 0),) * (x.ndim - 2), (0, length - tokens), (0, 0)))


def best_length(
    tokens: int, batch: int, heads: int, head_width: int, dtype: jnp.dtype, biased: bool
) -> int:
    """To which number of tokens an encoder had better pad, for attention and all that is around it.

    cuDNN gets even numbers (``cudnn_attention`` says why). A TPU keeps tokens in eights, so that
    more cost no memory; where its kernel takes the images and did not have them, rows of all images
    would have to be written again for an image's.
    """
    has_kernel = platform() == "tpu" and short_attention.divided(batch)
    multiple = 1
    if cudnn_attention.takes(head_width, dtype, biased):
        multiple = 2
    elif has_kernel and short_attention.fits(tokens, heads, head_width, dtype):
        multiple = 8
    return -(-tokens // multiple) * multiple


def _by_cudnn_or(in_steps, by_cudnn, biased, heads, x, *others):
    """A layer on [B, ..., D] as ``by_cudnn`` has it on cards where that takes it."""
    if not cudnn_attention.takes(x.shape[-1] // heads, x.dtype, biased):
        return in_steps(x, *others)
    return jax.lax.platform_dependent(x, *others, cuda=by_cudnn, default=in_steps)


def queries_keys_values(x: jax.Array, qkv: Linear, heads: int) -> jax.Array:
    """[..., N, D] -> [..., N, 3, H, D / H]."""
    made = linear(x.reshape(-1, x.shape[-1]), *qkv)  # rows of tokens, as in MLP
    return checkpoint_name(made, KEPT).reshape(*x.shape[:-1], 3, heads, -1)


def projected(attended: jax.Array, out: Linear) -> jax.Array:
    """[..., N, H, D / H] -> [..., N, D]."""
    *shape, heads, head_width = attended.shape
    rows = checkpoint_name(attended.reshape(-1, heads * head_width), KEPT)
    return linear(rows, *out).reshape(*shape, -1)


def attend(qkv: jax.Array, bias: jax.Array | None = None, seen: int | None = None) -> jax.Array:
    """softmax(q k / sqrt(D / H) + bias) v, logits and softmax in float32 whatever the dtype.

    In bfloat16 a kernel of our own on TPUs never writes the pairs of tokens, N x N, where it takes
    the shapes (``short_attention.takes``).

    Args:
      qkv: [B, N, 3, H, D / H], query, key and value, as one projection makes them.
      bias: [B or 1, H, S, S], or None.
      seen: S: the first so many tokens attend to each other; None for all.

    Returns:
      [B, N, H, D / H], zeros after the first S.
    """
    if seen is None:
        seen = qkv.shape[1]
    kinds = {
        "cpu": functools.partial(_in_steps, _attend_on_cpu, seen),
        "default": functools.partial(_in_steps, _attend_on_accelerators, seen),
    }
    if short_attention.takes(*_in_one_window(qkv, bias)):
        kinds["tpu"] = lambda *x: short_attention.attend(*_in_one_window(*x), seen)[:, 0]
    return jax.lax.platform_dependent(qkv, bias, **kinds)


def _in_one_window(qkv, bias):
    """What ``attend`` takes as what ``short_attention.attend`` takes."""
    return qkv[:, None], None if bias is None else bias[:, None]


def attend_in_windows(qkv: jax.Array, bias: jax.Array, seen: int) -> jax.Array:
    """``attend`` of [B, W, N, 3, H, D / H] with [W or 1, H, S, S] -> [B, W, N, H, D / H]."""
    # Windows are the batch of the attention, and examples are mapped over.
    kinds = {
        "cpu": jax.vmap(functools.partial(_in_steps, _attend_on_cpu, seen), (0, None)),
        "default": jax.vmap(functools.partial(_in_steps, _attend_on_accelerators, seen), (0, None)),
    }
    if short_attention.takes(qkv, bias[None]):
        kinds["tpu"] = lambda qkv, bias: short_attention.attend(qkv, bias[None], seen)
    return jax.lax.platform_dependent(qkv, bias, **kinds)


def _in_steps(attention, seen, qkv, bias):
    """``attend`` by a function of query, key, value [B, S, H, D / H] and bias."""
    attended = attention(*jnp.unstack(qkv[:, :seen], axis=2), bias)
    return jnp.pad(attended, ((0, 0), (0, qkv.shape[1] - seen), (0, 0), (0, 0)))


def attend_to(
    query: jax.Array, key: jax.Array, value: jax.Array, bias: jax.Array | None = None
) -> jax.Array:
    """The same of arrays by themselves, whose values may have a width of their own.

    Args:
      query, key: [B, N, H, K]; logits are divided by sqrt(K).
      value: [B, N, H, V].
      bias: [B or 1, H, N, N], or None.

    Returns:
      [B, N, H, V].
    """
    return jax.lax.platform_dependent(
        query, key, value, bias, cpu=_attend_on_cpu, default=_attend_on_accelerators
    )


def first_token_weights(
    query: jax.Array, key: jax.Array, bias: jax.Array | None = None
) -> jax.Array:
    """With what weights ``attend`` mixes the values for the first token: float32 [B, H, N].

    Args:
      query, key, bias: as of ``attend``.
    """
    first, key = jnp.swapaxes(query[:, :1], 1, 2), jnp.swapaxes(key, 1, 2)
    return _weights(first, key, None if bias is None else bias[:, :, :1])[:, :, 0]


@jax.custom_vjp
def _attend_on_accelerators(query, key, value, bias):
    """The same, keeping one [B, H, N, N] for the gradient: the weights, in the compute dtype.

    What bounds these devices is memory, and JAX would keep logits or softmax in float32 besides.
    """
    return _attended_and_kept(query, key, value, bias)[0]


def _attended_and_kept(query, key, value, bias):
    heads_first = (jnp.swapaxes(x, 1, 2) for x in (query, key))
    weights = _weights(*heads_first, bias).astype(value.dtype)
    attended = jnp.einsum("bhns,bshd->bnhd", weights, value)
    return attended, (query, key, value, bias, weights)


def _attend_backward(kept, gradient):
    query, key, value, bias, weights = kept
    # Or XLA, to which more digits are as good, keeps the float32 that the weights were made of.
    weights = jax.lax.optimization_barrier(weights)
    of_value = jnp.einsum("bhns,bnhd->bshd", weights, gradient)
    of_weights = jnp.einsum("bnhd,bshd->bhns", gradient, value, preferred_element_type=jnp.float32)
    product = weights * of_weights  # float32
    of_logits = product - weights * jnp.sum(product, axis=-1, keepdims=True)
    scaled = (of_logits * query.shape[-1] ** -0.5).astype(query.dtype)
    of_query = jnp.einsum("bhns,bshd->bnhd", scaled, key)
    of_key = jnp.einsum("bhns,bnhd->bshd", scaled, query)
    return of_query, of_key, of_value, _gradient_of_bias(of_logits, bias)


_attend_on_accelerators.defvjp(_attended_and_kept, _attend_backward)


def _gradient_of_bias(of_logits, bias):
    """From that of the logits [B, H, N, N]; None without a bias."""
    if bias is None:
        return None
    of_bias = of_logits if bias.shape[0] > 1 else jnp.sum(of_logits, axis=0, keepdims=True)
    return of_bias.astype(bias.dtype)


@jax.custom_vjp
def _attend_on_cpu(query, key, value, bias):
    """The same in the order that XLA for CPU is fast in: heads before tokens.

    JAX's own transposes the logits and writes them several times in both directions. Of many tokens
    one head goes after the other, and the weights are computed again for the gradient: in the cache
    that is faster than reading what was written.
    """
    return _attended_on_cpu(query, key, value, bias)[0]


def _attended_on_cpu(query, key, value, bias):
    parts = [jnp.swapaxes(x, 1, 2) for x in (query, key, value)]
    if query.shape[1] < _MANY_TOKENS:
        mixed, weights = _mix(*parts, bias)
    else:
        mixed, weights = _by_head(lambda *head: _mix(*head)[0], *parts, bias), None
    return jnp.swapaxes(mixed, 1, 2), (*parts, bias, weights, mixed)


def _backward_on_cpu(kept, gradient):
    *parts, bias, weights, mixed = kept
    gradient = jnp.swapaxes(gradient, 1, 2)
    if weights is not None:
        *found, of_logits = _unmix(*parts, weights, mixed, gradient)
    else:

        def of_head(query, key, value, mixed, gradient, bias=None):
            weights = _weights(query, key, bias)
            *found, of_logits = _unmix(query, key, value, weights, mixed, gradient)
            # All heads' at once are large, and only a bias has a use for them.
            return *found, None if bias is None else of_logits

        *found, of_logits = _by_head(of_head, *parts, mixed, gradient, bias)
    return *(jnp.swapaxes(x, 1, 2) for x in found), _gradient_of_bias(of_logits, bias)


_attend_on_cpu.defvjp(_attended_on_cpu, _backward_on_cpu)


def _by_head(function, *parts):
    """``function`` of [N, ...] for every head of arrays [B, H, N, ...], one after the other.

    The last array may be None, and then is not handed on, or be the same for all images.
    """
    batch, heads = parts[0].shape[:2]
    *parts, bias = parts
    if bias is not None:
        parts.append(jnp.broadcast_to(bias, (batch, *bias.shape[1:])))
    rows = [x.reshape(batch * heads, *x.shape[2:]) for x in parts]
    found = jax.lax.map(lambda head: function(*head), rows)
    return jax.tree.map(lambda x: x.reshape(batch, heads, *x.shape[1:]), found)


def _mix(query, key, value, bias=None):
    """Of [..., N, D / H] and [..., N, N]: (values mixed, by which weights)."""
    weights = _weights(query, key, bias)
    return jnp.einsum("...ns,...sd->...nd", weights.astype(value.dtype), value), weights


def _unmix(query, key, value, weights, mixed, gradient):
    """Gradients of queries, keys, values and, in float32, of logits, from that of ``mixed``."""
    wide, dtype = {"preferred_element_type": jnp.float32}, value.dtype
    of_value = jnp.einsum("...ns,...nd->...sd", weights.astype(dtype), gradient)
    of_weights = jnp.einsum("...nd,...sd->...ns", gradient, value, **wide)
    # The sum of weights x of_weights along a row, which is short in this form.
    along = jnp.sum(gradient * mixed, axis=-1, keepdims=True, dtype=jnp.float32)
    of_logits = weights * (of_weights - along)
    narrow, scale = of_logits.astype(dtype), query.shape[-1] ** -0.5
    of_query = jnp.einsum("...ns,...sd->...nd", narrow, key) * scale
    of_key = jnp.einsum("...ns,...nd->...sd", narrow, query) * scale
    return of_query, of_key, of_value, of_logits


def _weights(query, key, bias=None):
    """Of [..., N, D / H], float32 [..., N, N]."""
    logits = jnp.einsum("...nd,...sd->...ns", query, key, preferred_element_type=jnp.float32)
    logits = logits * query.shape[-1] ** -0.5
    return jax.nn.softmax(logits if bias is None else logits + bias)
