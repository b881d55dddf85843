"""Pyramids of maps: ViTDet's from the last map of a ViT, and FPN (arXiv 1612.03144) from a Swin's.

Sources: detectron2, modeling/backbone/vit.py, SimpleFeaturePyramid; mmdetection,
mmdet/models/necks/fpn.py; Swin-Transformer-Object-Detection, mmdet/models/backbones/
swin_transformer.py, whose backbone norms every stage. Both end with a fifth level, every other
vector of the fourth.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from repre_jax.models.convolution import Conv
from repre_jax.models.layers import layer_norm, torch_default_bias, torch_default_kernel

NORM_EPSILON = 1e-6  # of the convolutions' norms in detectron2


class Doubling(nn.Module):
    """Convolution transposed of 2 x 2 and stride 2: every vector makes four of its own.

    A matrix product: torch's kernel [in, out, 2, 2] is this one with its axes moved.
    """

    width: int
    kernel_init: nn.initializers.Initializer
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, gh, gw, D] -> [B, 2 gh, 2 gw, width]."""
        batch, rows, columns, width = x.shape
        kernel = self.param("kernel", self.kernel_init, (2, 2, width, self.width))
        bias = self.param("bias", self.bias_init, (self.width,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        x = jnp.einsum("bhwi,yxio->bhywxo", x, kernel)
        return x.reshape(batch, 2 * rows, 2 * columns, self.width) + bias


def _torch_default_transposed(key, shape, dtype=jnp.float32):
    """U(-1/sqrt(4 out), 1/sqrt(4 out)): torch takes the fan of the kernel's second axis."""
    bound = (4 * shape[-1]) ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


class SimplePyramid(nn.Module):
    """Maps of strides P/4, P/2, P, 2P and 4P from the one map of patches of P pixels."""

    width: int = 256
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array]) -> list[jax.Array]:
        """One map [B, gh, gw, D] -> five of ``width`` channels, fine to coarse."""
        (x,) = maps
        width = x.shape[-1]

        def double(x, divisor, name):
            return Doubling(
                width // divisor,
                _torch_default_transposed,
                torch_default_bias(4 * (width // divisor)),
                self.dtype,
                name=name,
            )(x)

        finest = layer_norm(NORM_EPSILON, self.dtype, "norm_0")(double(x, 2, "double_0a"))
        finest = double(nn.gelu(finest, approximate=False), 4, "double_0b")
        scaled = [finest, double(x, 2, "double_1"), x, nn.max_pool(x, (2, 2), (2, 2))]
        levels = [self._to_width(level, number) for number, level in enumerate(scaled)]
        return [*levels, levels[-1][:, ::2, ::2]]

    def _to_width(self, x, number):
        for kernel in (1, 3):
            x = Conv(
                self.width,
                (kernel, kernel),
                use_bias=False,
                kernel_init=torch_default_kernel,
                dtype=self.dtype,
                name=f"convolution_{number}_{kernel}x{kernel}",
            )(x)
            x = layer_norm(NORM_EPSILON, self.dtype, f"norm_{number}_{kernel}x{kernel}")(x)
        return x


class FeaturePyramid(nn.Module):
    """Maps of strides 4 to 64 from those of four stages, each under a norm of its own."""

    width: int = 256
    norm_epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array]) -> list[jax.Array]:
        """Maps of halving sides -> the same with ``width`` channels, and one more."""
        lateral = []
        for number, x in enumerate(maps):
            x = layer_norm(self.norm_epsilon, self.dtype, f"norm_{number}")(x)
            lateral.append(self._convolution(1, f"lateral_{number}")(x))
        for number in range(len(lateral) - 2, -1, -1):
            rows, columns = lateral[number].shape[1:3]
            above = jnp.repeat(jnp.repeat(lateral[number + 1], 2, axis=1), 2, axis=2)
            # Sides of odd maps: the last row or column above has one below it, not two.
            lateral[number] = lateral[number] + above[:, :rows, :columns]
        levels = [self._convolution(3, f"output_{k}")(x) for k, x in enumerate(lateral)]
        return [*levels, levels[-1][:, ::2, ::2]]

    def _convolution(self, kernel: int, name: str) -> Conv:
        return Conv(
            self.width,
            (kernel, kernel),
            kernel_init=nn.initializers.xavier_uniform(),
            dtype=self.dtype,
            name=name,
        )
