"""Attention by cuDNN on NVIDIA's cards, which does not write the pairs of tokens, N x N.

But for one: the gradient of what is added to the logits is summed from pairs that cuDNN does write,
to a workspace (cudnn-frontend, scaled_dot_product_flash_attention.h: "dBias is only supported on
workspace implementation"). XLA asks a card how large cuDNN's workspaces are; compiling for one that
is not here it counts none of their bytes (gpu_compiler.cc, RunCudnnCompilerPasses).

JAX has it as an implementation of its own attention, and knows some of its limits: 16 bits, heads
of a multiple of 8 channels and at most 128, or 256 on newer cards, and in training with a bias even
numbers of tokens (fused_attention_stablehlo.py). The card is asked for others (``refusal``). Odd
numbers are padded without a bias, too: they need not be, but no card was there to try them on.

It promises no order of the sums in its gradients: two runs on a card may differ in their last
digits.
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


def takes(head_width: int, dtype: jnp.dtype, biased: bool) -> bool:
    """Whether a program is traced for cards of NVIDIA's whose cuDNN trains such heads.

    Args:
      head_width, dtype, biased: as of ``refusal``.
    """
    return platform() == "cuda" and refusal(head_width, dtype, biased) is None


def misses(head_width: int, dtype: jnp.dtype, biased: bool) -> str | None:
    """The ``refusal`` where this process has cards of NVIDIA's, of attention in bfloat16."""
    if platform() != "cuda" or dtype != jnp.bfloat16:
        return None
    return refusal(head_width, dtype, biased)


def refusal(head_width: int, dtype: jnp.dtype, biased: bool) -> str | None:
    """Why cuDNN does not train such heads, in the words of JAX or cuDNN; None where it does.

    What it takes is a matter of card and version: none before compute capability 8.0, gradients of
    heads above 128 channels on Hopper alone, and with some versions nothing at all
    (github.com/jax-ml/jax/issues/32430). So a card that is here is asked, once for each kind of
    attention, by compiling a small one. Of a card that is not, JAX's own rule is all there is.

    Args:
      head_width: D / H.
      dtype: of queries, keys and values.
      biased: whether something is added to their logits.
    """
    return _refusal(head_width, jnp.dtype(dtype), biased, jax.default_backend() == "gpu")


@functools.cache
def _refusal(head_width, dtype, biased, is_here):
    batch, tokens, heads, seen = 2, 50, 2, 49
    # By itself on one card, whatever devices the layer is traced for that wants to know.
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    no_mesh = jax.sharding.AbstractMesh((), ())
    shape = functools.partial(jax.ShapeDtypeStruct, dtype=dtype, sharding=device)
    parts = [shape((batch, tokens, heads, head_width))] * 3
    # The same for all images, and each image's own.
    biases = [[shape((rows, heads, seen, seen))] for rows in (1, batch)] if biased else [[]]

    def with_gradients(*inputs):
        attended, backward = jax.vjp(functools.partial(_among_first, seen, "cudnn"), *inputs)
        return attended, backward(attended)

    try:
        with jax.sharding.use_abstract_mesh(no_mesh):
            for bias in biases:
                traced = jax.jit(with_gradients).trace(*parts, *bias)
                if is_here:
                    traced.lower().compile()
    except RuntimeError as error:  # such as NotImplementedError and JAX's JaxRuntimeError
        return str(error).partition("\n")[0].rstrip(".")
    return None


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
        lengths = jnp.full(query.shape[:1], seen, jnp.int32)
        options |= {"query_seq_lengths": lengths, "key_value_seq_lengths": lengths}
    else:
        unseen = query.shape[1] - seen
        bias = jnp.pad(bias.astype(query.dtype), ((0, 0), (0, 0), (0, unseen), (0, 0)))
        of_keys = ((0, 0), (0, 0), (0, 0), (0, unseen))
        options["bias"] = jnp.pad(bias, of_keys, constant_values=_UNSEEN)
    return jax.nn.dot_product_attention(query, key, value, **options)
