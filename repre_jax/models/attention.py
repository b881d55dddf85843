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
      query, key, value: [B, N, H, D / H].
      bias: [B or 1, H, N, N], or None.

    Returns:
      [B, N, H, D / H].
    """
    return jax.lax.platform_dependent(
        query, key, value, bias, cpu=_attend_on_cpu, default=jax.nn.dot_product_attention
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


def _attend_on_cpu(query, key, value, bias):
    """The same in the order that XLA for CPU is fast in: heads before tokens, one after the other.

    JAX's own transposes the logits and writes all of them in both directions; 785 tokens of 16
    heads take it four times as long.
    """
    batch, tokens, heads, width = query.shape
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
