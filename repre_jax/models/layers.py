"""The pieces that vision transformers share: initialisers, patches, MLP, attention, block."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from repre_jax.models.attention import (
    first_token_weights,
    queries_keys_values,
    self_attention,
)
from repre_jax.models.convolution import Conv
from repre_jax.models.cudnn_attention import BiasOf
from repre_jax.models.dense import Dense, LinearParameters
from repre_jax.models.layer_norm import LayerNorm
from repre_jax.models.taps import ATTENTION
from repre_jax.rematerialisation import BLOCK, KEPT, NONE

Initializer = Callable[..., jax.Array]

# torch's default for Linear and Conv kernels: U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
torch_default_kernel = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# The same of a kernel [out, in], as torch itself stores it.
torch_default_rows = nn.initializers.variance_scaling(
    1 / 3, "fan_in", "uniform", in_axis=-1, out_axis=-2
)

# Xavier uniform of a kernel [P, P, C, D] as the matrix [P P C, D] of flattened patches.
xavier_of_patches = nn.initializers.xavier_uniform(in_axis=(0, 1, 2))

# Haiku's default for Linear: TruncatedNormal(1/sqrt(fan_in)), cut at two deviations, which leaves
# 0.88 of the deviation. JAX's own would make up for that.
haiku_default_kernel = nn.initializers.variance_scaling(0.87962566**2, "fan_in", "truncated_normal")

INITIALISATIONS = ("dino", "moco_v3", "mae")

# DINO, DeiT and Swin ask for a normal of standard deviation 0.02 "truncated" at +-2 in absolute
# terms, a hundred standard deviations away: it is an untruncated normal.
normal_002 = nn.initializers.normal(0.02)


def torch_default_bias(fan_in: int) -> Initializer:
    """torch's default bias: U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    bound = fan_in**-0.5
    return functools.partial(jax.random.uniform, minval=-bound, maxval=bound)


def linear_initialisers(initialisation: str) -> tuple[Initializer, Initializer]:
    """(of every linear layer, of the fused query-key-value kernel).

    "dino" is normal 0.02 (DINO, DeiT, Swin); "moco_v3" and "mae" are Xavier uniform, the former of
    query, key and value each with their own fan (facebookresearch/moco-v3, vits.py), the latter of
    the fused kernel (facebookresearch/mae, models_mae.py).
    """
    if initialisation == "mae":
        return nn.initializers.xavier_uniform(), nn.initializers.xavier_uniform()
    if initialisation == "moco_v3":
        # Each is square, so Xavier's sqrt(6 / (D + D)) is LeCun's sqrt(3 / D) of the fused kernel.
        return nn.initializers.xavier_uniform(), nn.initializers.lecun_uniform()
    return normal_002, normal_002


def patch_embedding(
    width: int,
    patch_size: int,
    initialisation: str,
    dtype: jnp.dtype,
    name: str,
    *,
    channels: int,
) -> Conv:
    """Linear map of patches: [B, H, W, C] -> [B, H/P, W/P, D].

    "moco_v3" and "mae" are Xavier uniform over the fan of the flattened patch, with a bias of zero
    there and torch's default here; "dino" is torch's default altogether.
    """
    kernel_init, bias_init = torch_default_kernel, torch_default_bias(channels * patch_size**2)
    if initialisation in ("moco_v3", "mae"):
        kernel_init = xavier_of_patches
    if initialisation == "moco_v3":
        bias_init = nn.initializers.zeros
    patch = (patch_size, patch_size)
    return Conv(
        width,
        patch,
        strides=patch,
        padding="VALID",
        dtype=dtype,
        kernel_init=kernel_init,
        bias_init=bias_init,
        name=name,
    )


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """Exact (erf) GELU in float32, keeping nothing but ``x`` for the gradient.

    JAX would keep another array as large as ``x``, which takes longer to write and read than erf
    to compute again.
    """
    wide = x.astype(jnp.float32)
    return (wide * _normal_cdf(wide)).astype(x.dtype)


def _normal_cdf(x):
    """By erf, as torch has it: JAX's own takes erfc, twice the work for digits of small results."""
    return 0.5 * (1 + jax.lax.erf(x * 0.5**0.5))


def _gelu_backward(x, gradient):
    # Or XLA would see that erf was there before, and keep it.
    x = jax.lax.optimization_barrier(x)
    wide = x.astype(jnp.float32)
    slope = _normal_cdf(wide) + wide * jax.scipy.stats.norm.pdf(wide)
    return ((slope * gradient.astype(jnp.float32)).astype(x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


class MLP(nn.Module):
    """Linear, exact (erf) GELU, Linear."""

    hidden: int
    kernel_init: Initializer
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., D]."""
        shape = x.shape
        # Rows of tokens: a kernel's gradient then contracts one axis and not two, which XLA for
        # CPU runs 1.7 times as fast.
        x = x.reshape(-1, shape[-1])
        x = Dense(self.hidden, kernel_init=self.kernel_init, dtype=self.dtype, name="up")(x)
        x = gelu(checkpoint_name(x, KEPT))
        x = Dense(shape[-1], kernel_init=self.kernel_init, dtype=self.dtype, name="down")(x)
        return x.reshape(shape)


class Attention(nn.Module):
    """Multi-head self-attention with one fused query-key-value kernel [D, 3D].

    Fused because DINO's clipping per tensor, and the trust ratio of LARS, act on that tensor.

    Attributes:
      seen: the first so many tokens attend to each other, and none to the others; None for all.
    """

    heads: int
    kernel_init: Initializer
    qkv_init: Initializer
    dtype: jnp.dtype = jnp.float32

    seen: int | None = None

    def bias_of_queries(self, head_width: int) -> BiasOf | None:
        """What a subclass adds to the scaled logits, by ``head_width`` channels of a query."""
        del head_width
        return None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, N, D] -> [B, N, D]; logits and softmax are float32 whatever the compute dtype."""
        width = x.shape[-1]
        qkv = LinearParameters(3 * width, kernel_init=self.qkv_init, name="qkv")(width)
        out = LinearParameters(width, kernel_init=self.kernel_init, name="out")(width)
        x = x.astype(self.dtype)
        # Only where somebody wants to look: what is trained does not have it.
        looked_at = self.is_mutable_collection(ATTENTION) and not self.is_initializing()
        bias_of = self.bias_of_queries(width // self.heads)
        if looked_at:
            query, key, _ = jnp.unstack(
                queries_keys_values(x, qkv, self.heads)[:, : self.seen], axis=2
            )
            weights = first_token_weights(query, key, bias_of and bias_of(query))
            self.sow(ATTENTION, "first_token", weights)
        return self_attention(x, qkv, out, self.heads, self.seen, bias_of)


class Block(nn.Module):
    """Pre-norm transformer block.

    Attributes:
      drop_path: rate of stochastic depth: each branch of each example is dropped whole or scaled by
        1 / (1 - rate), a draw of the "drop_path" stream for each.
      attention: class, or function of the same arguments, that makes the attention.
    """

    heads: int
    mlp_ratio: float = 4.0
    drop_path: float = 0.0
    norm_epsilon: float = 1e-6
    kernel_init: Initializer = normal_002
    qkv_init: Initializer = normal_002
    dtype: jnp.dtype = jnp.float32
    attention: Callable[..., nn.Module] = Attention

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x [B, ..., D] as the attention takes it, for the usual one [B, N, D]; the same out."""
        hidden = int(x.shape[-1] * self.mlp_ratio)
        drop_path = functools.partial(
            nn.Dropout,
            self.drop_path,
            broadcast_dims=tuple(range(1, x.ndim)),
            deterministic=not train,
            rng_collection="drop_path",
        )
        y = layer_norm(self.norm_epsilon, self.dtype, "norm_1")(x)
        initialisers = (self.kernel_init, self.qkv_init)
        y = self.attention(self.heads, *initialisers, self.dtype, name="attention")(y)
        x = checkpoint_name(x + drop_path(name="drop_path_1")(y), KEPT)
        y = layer_norm(self.norm_epsilon, self.dtype, "norm_2")(x)
        y = MLP(hidden, self.kernel_init, self.dtype, name="mlp")(y)
        return x + drop_path(name="drop_path_2")(y)


def rematerialised(level: str) -> Callable[..., Block]:
    """``Block`` for a level of ``rematerialisation.LEVELS``.

    "attention" keeps of a block what its matrix products make, and the sum in its middle: 10 of
    the 16 arrays as large as its input. Weights of the attention, norms and GELU, which take few
    operations, are computed again.
    """
    if level == NONE:
        return Block
    keep = None if level == BLOCK else jax.checkpoint_policies.save_only_these_names(KEPT)
    return nn.remat(Block, static_argnums=(2,), policy=keep)


class BlockForm(NamedTuple):
    """What an encoder's blocks are like, for others that are to be of the same kind.

    Attributes:
      head_width: channels of a head.
      norm_epsilon: of the norms.
      initialisation: of ``linear_initialisers``.
      window: side of the windows in vectors, of which every other block shifts its own; None for
        attention over the whole map.
      biased: whether something is added to the logits of the attention.
    """

    head_width: int = 64
    norm_epsilon: float = 1e-6
    initialisation: str = "dino"
    window: int | None = None
    biased: bool = False


def layer_norm(epsilon: float, dtype: jnp.dtype, name: str) -> nn.LayerNorm:
    """LayerNorm with two-pass variance: the one-pass form loses digits that parity needs."""
    return LayerNorm(epsilon=epsilon, dtype=dtype, name=name)
