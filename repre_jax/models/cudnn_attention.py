"""Attention by cuDNN on NVIDIA's cards, which never writes the pairs of tokens, N x N.

JAX has it as an implementation of its own attention, and knows its limits: 16 bits, heads of a
multiple of 8 channels and at most 128, or 256 on newer cards. Trained, it wants even numbers of
tokens. It promises no order of the sums in its gradients: two runs on a card may differ in their
last digits.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from repre_jax.models.dense import Linear, linear
from repre_jax.rematerialisation import KEPT
from repre_jax.sharding import platform

# Queries [B, N, H, D / H] -> what is added to their logits, [B or 1, H, N, N].
BiasOf = Callable[[jax.Array], jax.Array]

# A logit by which a token is not seen.
_UNSEEN = -1e4


def takes(head_width: int, dtype: jnp.dtype) -> bool:
    """Whether JAX has cuDNN's attention for such heads here, of any even number of tokens.

    It asks JAX. Without the CUDA plugin there is none.
    """
    part = jax.ShapeDtypeStruct((1, 2, 1, head_width), dtype)
    bias = jax.ShapeDtypeStruct((1, 1, 2, 2), dtype)

    def gradient(*parts):
        return jax.vjp(functools.partial(_among_first, 2, "cudnn"), *parts)[1](parts[0])

    try:
        jax.eval_shape(gradient, part, part, part, bias)
    except (NotImplementedError, RuntimeError):
        return False
    return True


def misses(head_width: int, dtype: jnp.dtype) -> bool:
    """Whether this is a card of NVIDIA's whose attention in bfloat16 cuDNN does not take."""
    return platform() == "cuda" and dtype == jnp.bfloat16 and not takes(head_width, dtype)


def self_attention(
    x: jax.Array,
    qkv: Linear,
    out: Linear,
    heads: int,
    seen: int,
    bias_of: BiasOf | None = None,
    implementation: str = "cudnn",
) -> jax.Array:
    """A layer of attention with its projections: [B, N, ..., D] -> the same.

    What stands between tokens and channels are sequences of their own, such as windows: to cuDNN
    they are as many times the heads.

    It wants queries, keys and values by themselves, so that projections make them so: cut out of
    one array, and their gradients put together to one, they would be copied, which takes longer
    than reading ``x`` three times.

    Args:
      x, qkv, out, heads, seen: as of ``attention.self_attention``.
      bias_of: of the queries of the tokens that are seen. It is rounded to the dtype of ``x``.
      implementation: of ``jax.nn.dot_product_attention``.
    """
    tokens, width = x.shape[1], x.shape[-1]
    x = jnp.pad(x, ((0, 0), (0, tokens % 2), *((0, 0),) * (x.ndim - 2)))
    rows = x.reshape(-1, width)
    biases = (None,) * 3 if qkv.bias is None else jnp.split(qkv.bias, 3)
    parts = [
        checkpoint_name(linear(rows, kernel, bias), KEPT)
        for kernel, bias in zip(jnp.split(qkv.kernel, 3, axis=1), biases, strict=True)
    ]
    parts = [part.reshape(*x.shape[:2], -1, width // heads) for part in parts]
    bias = None if bias_of is None else bias_of(parts[0][:, :seen])
    attended = _among_first(seen, implementation, *parts, bias)
    rows = checkpoint_name(attended.reshape(-1, width), KEPT)
    return linear(rows, *out).reshape(x.shape)[:, :tokens]


def _among_first(seen, implementation, query, key, value, bias=None):
    """Attention of the first ``seen`` of [B, N, H, D / H] among themselves.

    Without a bias zeros follow, as values and as gradients: JAX's test testDotProductAttentionMask
    (tests/nn_test.py) asks that of cuDNN. The lengths that say so are told even where all tokens
    are seen: where they were not, and tokens no multiple of 128, an H100's gradients have been no
    numbers (github.com/NVIDIA/cudnn-frontend/issues/160).

    With a bias the others see what is seen, too. With nothing to see, the logarithm of a row's sum
    would be far below -88, where the same has happened (github.com/pytorch/pytorch/issues/196678).
    """
    options = {"implementation": implementation}
    if bias is None:
        lengths = jnp.full(len(query), seen, jnp.int32)
        options |= {"query_seq_lengths": lengths, "key_value_seq_lengths": lengths}
    else:
        unseen = query.shape[1] - seen
        bias = jnp.pad(bias.astype(query.dtype), ((0, 0), (0, 0), (0, unseen), (0, 0)))
        of_keys = ((0, 0), (0, 0), (0, 0), (0, unseen))
        options["bias"] = jnp.pad(bias, of_keys, constant_values=_UNSEEN)
    return jax.nn.dot_product_attention(query, key, value, **options)
