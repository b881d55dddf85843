"""Scaled dot-product attention, as fast as each kind of device has it."""

import jax
import jax.numpy as jnp

# Tokens from which a CPU is faster head by head: their logits then no longer fit its cache.
_MANY_TOKENS = 256


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, bias: jax.Array | None = None
) -> jax.Array:
    """softmax(q k / sqrt(D / H) + bias) v, logits and softmax in float32 whatever the dtype.

    Args:
      query, key: [B, N, H, D / H].
      value: [B, N, H, V], of that width mostly.
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
    of_bias = bias
    if bias is not None:
        of_bias = of_logits if bias.shape[0] > 1 else jnp.sum(of_logits, axis=0, keepdims=True)
        of_bias = of_bias.astype(bias.dtype)
    scaled = (of_logits * query.shape[-1] ** -0.5).astype(query.dtype)
    of_query = jnp.einsum("bhns,bshd->bnhd", scaled, key)
    of_key = jnp.einsum("bhns,bnhd->bshd", scaled, query)
    return of_query, of_key, of_value, of_bias


_attend_on_accelerators.defvjp(_attended_and_kept, _attend_backward)


def _attend_on_cpu(query, key, value, bias):
    """The same in the order that XLA for CPU is fast in: heads before tokens, one after the other.

    JAX's own transposes the logits and writes all of them in both directions; 785 tokens of 16
    heads take it four times as long.
    """
    batch, tokens, heads, width = value.shape
    query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
    if tokens < _MANY_TOKENS:
        attended = _attend(query, key, value, bias)
    else:
        # Recomputed for the gradient: in the cache that is faster than reading what was written.
        inputs = [query, key, value]
        if bias is not None:
            inputs.append(jnp.broadcast_to(bias, (batch, *bias.shape[1:])))
        rows = [x.reshape(batch * heads, *x.shape[2:]) for x in inputs]
        attended = jax.lax.map(jax.checkpoint(lambda head: _attend(*head)), rows)
        attended = attended.reshape(batch, heads, tokens, width)
    return jnp.swapaxes(attended, 1, 2)


def _attend(query, key, value, bias=None):
    """Of [..., N, D / H] and [..., N, N]."""
    weights = _weights(query, key, bias)
    return jnp.einsum("...ns,...sd->...nd", weights.astype(value.dtype), value)


def _weights(query, key, bias=None):
    """Of [..., N, D / H], float32 [..., N, N]."""
    logits = jnp.einsum("...nd,...sd->...ns", query, key, preferred_element_type=jnp.float32)
    logits = logits * query.shape[-1] ** -0.5
    return jax.nn.softmax(logits if bias is None else logits + bias)
