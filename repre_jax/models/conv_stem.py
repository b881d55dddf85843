"""A convolutional stem in place of the patch embedding (arXiv 2106.14881), as MoCo v3 builds it.

Its BatchNorm ties the images of a batch together. So the train step passes the whole batch through
the stem by itself, and the rest of the encoder, which sees one image at a time, starts from what
came out (``trunk``). Evaluations know no batch: there the running statistics make each BatchNorm a
fixed affine map, which is folded into the convolution before it (``frozen``, ``fold``), and an
encoder is its parameters and nothing else.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from repre_jax.models.batch_norm import BatchNorm
from repre_jax.models.convolution import Conv
from repre_jax.models.layers import (
    torch_default_bias,
    torch_default_kernel,
)


class ConvStem(nn.Module):
    """3x3 convolutions of stride 2, each with BatchNorm and ReLU, then a 1x1 convolution.

    The widths double up to D. The official one is for patches of 16 pixels alone, with four such
    convolutions of D/8, D/4, D/2 and D channels; here a patch of 2^n pixels has n of them.
    Source: facebookresearch/moco-v3, vits.py, ConvStem.

    Attributes:
      width: D.
      patch_size: pixels per side that an output vector stands for.
      folded: without BatchNorm, whose work the biases of the convolutions do (``fold``).
    """

    width: int
    patch_size: int
    folded: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H/P, W/P, D]; BatchNorm's statistics are of all B images."""
        x = images
        layers = halvings(self.patch_size)
        for k in range(layers):
            x = Conv(
                self.width // 2 ** (layers - 1 - k),
                (3, 3),
                strides=(2, 2),
                padding=((1, 1), (1, 1)),
                use_bias=self.folded,
                kernel_init=torch_default_kernel,
                dtype=self.dtype,
                name=f"conv_{k}",
            )(x)
            if not self.folded:
                x = BatchNorm(train, name=f"norm_{k}")(x).astype(self.dtype)
            x = nn.relu(x)
        return Conv(
            self.width,
            (1, 1),
            kernel_init=torch_default_kernel,
            bias_init=torch_default_bias(self.width),
            dtype=self.dtype,
            name="project",
        )(x)


def halvings(patch_size: int) -> int:
    """Convolutions of stride 2 that make one pixel of a patch."""
    return patch_size.bit_length() - 1


def conv_stem(encoder: nn.Module) -> ConvStem | None:
    """The stem that has to see a whole batch; None for an encoder that has none."""
    if getattr(encoder, "stem", None) != "conv":
        return None
    return ConvStem(encoder.width, encoder.patch_size, dtype=encoder.dtype)


def trunk(encoder: nn.Module) -> nn.Module:
    """The encoder after such a stem: it takes what comes out of it, [B, gh, gw, D], for images.

    Its parameters are the whole encoder's. An encoder without such a stem is its own trunk.
    """
    if conv_stem(encoder) is None:
        return encoder
    return encoder.clone(stem="outside", normalisation=None)


def frozen(encoder: nn.Module) -> nn.Module:
    """The encoder as evaluations use it, with the parameters that ``fold`` gives."""
    return encoder if conv_stem(encoder) is None else encoder.clone(stem="folded")


def fold(params: Any, statistics: Any) -> Any:
    """Parameters of an encoder with its stem's BatchNorm, if any, folded into the convolutions.

    Args:
      params: of the encoder.
      statistics: running statistics of the encoder; None or {} where there is no BatchNorm.
    """
    if not statistics:
        return params
    stem = dict(params["patch_embed"])
    for name, moments in statistics["patch_embed"].items():
        norm, conv = stem.pop(name), name.replace("norm", "conv")
        slope = norm["scale"] / jnp.sqrt(moments["var"] + BatchNorm.epsilon)
        stem[conv] = {
            "kernel": stem[conv]["kernel"] * slope,
            "bias": norm["bias"] - moments["mean"] * slope,
        }
    return params | {"patch_embed": stem}
