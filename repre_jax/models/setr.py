"""Heads of SETR (arXiv 2012.15840) on the maps of a ViT: Naive, PUP and MLA, with auxiliary heads.

Source: fudan-zvg/SETR, mmseg/models/decode_heads/{vit_up_head,vit_mla_head,vit_mla_auxi_head}.py,
mmseg/models/backbones/vit_mla.py, configs/SETR/*_DeiT_768x768_*. Maps are the blocks' outputs
before the final norm. Convolutions begin as torch's do. Departures: the class token stays in MLA's
encoder, too, for pre-trained encoders have one; upsampling ends at the image, whatever the patch;
positions are resized with a cubic, as DINO's code does, where SETR's is bilinear.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from repre_jax.models.batch_norm import BatchNorm
from repre_jax.models.convolution import Conv
from repre_jax.models.layers import (
    layer_norm,
    torch_default_bias,
    torch_default_kernel,
)
from repre_jax.models.taps import even_taps

VARIANTS = ("naive", "pup", "mla")
_CHANNELS, _MLA_CHANNELS = 256, 128
_NORM_EPSILON = 1e-6
# Of the auxiliary heads where they are not spaced evenly: DeiT-B's, ViT-L's.
_AUXILIARY = {
    ("pup", 12): (4, 7, 9, 11),
    ("pup", 24): (9, 14, 19, 23),
    ("naive", 24): (9, 14, 19),
}


def setr_blocks(variant: str, depth: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(blocks that the head reads, those of the auxiliary heads) of an encoder of ``depth`` blocks.

    The repository's for 12 and 24 blocks; for others at even intervals. MLA's auxiliary heads read
    its own maps, one each.
    """
    even, last = even_taps(depth, min(4, depth)), (depth - 1,)
    if variant == "mla":
        return even, even
    return last, _AUXILIARY.get((variant, depth), even[:-1] if variant == "naive" else even)


def learns_as_the_encoder(module: str) -> bool:
    """Whether a module of ``SETRHead`` is the backbone's in the repository, with its learning rate.

    MLA's norms, lateral convolutions and sums are (backbones/vit_mla.py); all others are a head's.
    """
    return module.startswith(("norm_", "lateral_", "sum_"))


class SETRHead(nn.Module):
    """From maps to logits of pixels.

    Attributes:
      variant: of ``VARIANTS``.
      blocks: that the head reads, as in ``setr_blocks``.
      auxiliary: those of the auxiliary heads; () for none. MLA's have its own maps.
      classes: C.
      dtype: of the convolutions; norms and logits are float32.
    """

    variant: str
    blocks: tuple[int, ...]
    auxiliary: tuple[int, ...]
    classes: int
    dtype: jnp.dtype = jnp.float32

    @property
    def taps(self) -> tuple[int, ...]:
        """Blocks whose maps the call takes, in this order."""
        return tuple(sorted({*self.blocks, *self.auxiliary}))

    @nn.compact
    def __call__(
        self, maps: Sequence[jax.Array], size: tuple[int, int], train: bool = False
    ) -> tuple[jax.Array, list[jax.Array]]:
        """Maps [B, gh, gw, D] of ``taps`` -> logits float32 [B, H, W, C], those of auxiliary heads.

        Args:
          maps: of the blocks.
          size: (H, W) of the logits.
          train: whether norms take the batch's statistics, and there are auxiliary logits at all.
        """
        of_block = dict(zip(self.taps, maps, strict=True))
        if self.variant == "mla":
            return self._mla([of_block[block] for block in self.blocks], size, train)
        upsamplings = 4 if self.variant == "pup" else 1
        main = UpHead(self.classes, upsamplings, self.variant == "pup", self.dtype, name="main")
        logits = main(of_block[self.blocks[0]], size, train)
        if not train and not self.is_initializing():
            return logits, []
        auxiliary = [
            UpHead(
                self.classes,
                2 if self.variant == "pup" else 1,
                self.variant == "pup",
                self.dtype,
                name=f"auxiliary_{k}",
            )(of_block[block], size, train)
            for k, block in enumerate(self.auxiliary)
        ]
        return logits, auxiliary

    def _mla(self, maps, size, train) -> tuple[jax.Array, list[jax.Array]]:
        """Sums of the maps from the last to the first, each seen by a branch of its own."""
        narrow = []
        for k, x in enumerate(maps):
            x = layer_norm(_NORM_EPSILON, self.dtype, f"norm_{k}")(x)
            narrow.append(self._block(x, _CHANNELS, 1, f"lateral_{k}", train))
        sums = list(narrow)
        for k in range(len(maps) - 2, -1, -1):
            sums[k] = sums[k + 1] + narrow[k]
        pyramid = [self._block(x, _CHANNELS, 3, f"sum_{k}", train) for k, x in enumerate(sums)]
        branches = []
        for k, x in enumerate(pyramid):
            for layer in range(2):
                x = self._block(x, _MLA_CHANNELS, 3, f"branch_{k}_{layer}", train)
            larger = (4 * x.shape[1], 4 * x.shape[2])
            branches.append(resize_corners(x, larger))
        logits = convolution(self.classes, 3, 4 * _MLA_CHANNELS, self.dtype, "classes")(
            jnp.concatenate(branches, axis=-1)
        )
        logits = resize(logits.astype(jnp.float32), size)
        if not train and not self.is_initializing():
            return logits, []
        auxiliary = []
        for k, x in enumerate(pyramid if self.auxiliary else ()):
            found = convolution(
                self.classes, 1, _CHANNELS, self.dtype, f"auxiliary_{k}", use_bias=False
            )(x)
            auxiliary.append(resize(found.astype(jnp.float32), size))
        return logits, auxiliary

    def _block(self, x, channels: int, kernel: int, name: str, train: bool) -> jax.Array:
        conv = convolution(channels, kernel, x.shape[-1], self.dtype, name, use_bias=False)
        return nn.relu(BatchNorm(train, name=f"{name}_norm")(conv(x))).astype(self.dtype)


class UpHead(nn.Module):
    """LayerNorm; convolutions of 256 channels with BatchNorm and ReLU; classes; upsampling between.

    One upsampling (Naive): 1x1 convolution, classes, up to the image. Two (PUP's auxiliary heads):
    3x3, x4, classes, up. Four (PUP): 3x3 four times, x2 after each of the first three, classes, up.

    Attributes:
      classes: C.
      upsamplings: 1, 2 or 4.
      wide: whether the convolutions are 3x3.
      dtype: of the convolutions.
    """

    classes: int
    upsamplings: int
    wide: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, size: tuple[int, int], train: bool) -> jax.Array:
        """[B, gh, gw, D] -> logits float32 [B, H, W, C]."""
        x = layer_norm(_NORM_EPSILON, self.dtype, "norm")(x)
        for k in range(4 if self.upsamplings == 4 else 1):
            kernel = 3 if self.wide else 1
            x = convolution(_CHANNELS, kernel, x.shape[-1], self.dtype, f"conv_{k}")(x)
            x = nn.relu(BatchNorm(train, name=f"conv_{k}_norm")(x)).astype(self.dtype)
            factor = {1: 1, 2: 4, 4: 2 if k < 3 else 1}[self.upsamplings]
            if factor > 1:
                x = resize(x, (factor * x.shape[1], factor * x.shape[2]))
        x = convolution(self.classes, 1, _CHANNELS, self.dtype, "classes")(x)
        return resize(x.astype(jnp.float32), size)


def convolution(
    channels: int, kernel: int, inputs: int, dtype: jnp.dtype, name: str, *, use_bias: bool = True
) -> Conv:
    """A convolution that keeps the size and begins as torch's."""
    return Conv(
        channels,
        (kernel, kernel),
        padding="SAME",
        use_bias=use_bias,
        dtype=dtype,
        kernel_init=torch_default_kernel,
        bias_init=torch_default_bias(inputs * kernel**2),
        name=name,
    )


def resize(maps: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bilinear with half-pixel centres and no antialiasing, torch's align_corners=False."""
    if maps.shape[1:3] == size:
        return maps
    shape = (maps.shape[0], *size, maps.shape[3])
    return jax.image.resize(maps, shape, "linear", antialias=False)


def resize_corners(maps: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bilinear between the centres of the corners, torch's align_corners=True."""
    rows, columns = (
        corners_matrix(old, new) for old, new in zip(maps.shape[1:3], size, strict=True)
    )
    highest = jax.lax.Precision.HIGHEST
    return jnp.einsum("yr,xc,brcd->byxd", rows, columns, maps, precision=highest).astype(maps.dtype)


def corners_matrix(source: int, target: int) -> np.ndarray:
    """float32 [target, source]: position i of the target lies at i (source - 1) / (target - 1)."""
    return _interpolation(np.arange(target) * ((source - 1) / max(target - 1, 1)), source)


def centres_matrix(source: int, target: int) -> np.ndarray:
    """float32 [target, source], ``resize`` along a side: pixels have their places at centres."""
    places = (np.arange(target) + 0.5) * (source / target) - 0.5
    return _interpolation(np.clip(places, 0, source - 1), source)


def _interpolation(places: np.ndarray, source: int) -> np.ndarray:
    """Linear between the two of ``source`` positions beside each place."""
    target = len(places)
    below = np.minimum(places.astype(int), max(source - 2, 0))
    matrix = np.zeros((target, source))
    np.add.at(matrix, (np.arange(target), below), 1 - (places - below))
    np.add.at(matrix, (np.arange(target), np.minimum(below + 1, source - 1)), places - below)
    return matrix.astype(np.float32)
