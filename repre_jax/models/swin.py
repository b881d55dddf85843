"""Swin transformer (arXiv 2103.14030): attention inside windows that shift, maps that halve.

Sources: SwinTransformer/Transformer-SSL and microsoft/esvit, models/swin_transformer.py. At the
image size that the network is made for all implementations agree. Elsewhere this one does what
EsViT does, whose small crops are such a case:

- Windows and shifts are fitted once, to the maps of ``image_size``: a stage whose map is not larger
  than the window gets the map as its window, and no shift. Other images run through these windows:
  at 96 pixels the 6 x 6 map of a network made for 224 still lies in a 7 x 7 window that shifts.
  Hugging Face refits them to every image, and cannot run maps smaller than the window; timm wants
  one size.
- Maps are padded right and bottom with zeros after the first norm, up to whole windows, then
  shifted; padding is seen by the attention (as key and value it is the bias of these maps), and
  cropped after it. The mask only separates what the shift brought together. (timm shifts first.)
- Sides that are odd before a merging get a row or a column of zeros.
- Images that are no multiple of the patch are padded with zeros right and bottom, as in Hugging
  Face; EsViT drops those pixels.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from repre_jax.errors import UserError
from repre_jax.image_size import ImageSize, height_and_width
from repre_jax.models.attention import window_attention
from repre_jax.models.dense import Dense, LinearParameters
from repre_jax.models.layers import (
    Block,
    BlockForm,
    Initializer,
    layer_norm,
    linear_initialisers,
    normal_002,
    patch_embedding,
    rematerialised,
)
from repre_jax.models.partition import from_windows, pad_to_multiple, to_windows
from repre_jax.models.pixels import IMAGENET, Normalisation
from repre_jax.models.taps import BlockOutput, EncoderOutput, tap_name
from repre_jax.rematerialisation import NONE, level_of

# name -> (width of the first stage C, blocks of each stage, heads of each stage). nano is for small
# images and small budgets; where its maps are no multiples of 7, other windows save the padding (4
# at 32 or 64 pixels).
SWIN_SIZES = {
    "swin_nano": (32, (2, 2, 2, 2), (1, 2, 4, 8)),
    "swin_tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "swin_small": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "swin_base": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
}
PATCH_SIZE = 4
# Added to the logits between what the shift brought together; the official number.
SEPARATE = -100.0


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows, with a learned bias for each relative position.

    One fused query-key-value kernel [D, 3D] as in ``layers.Attention``.

    Attributes:
      window: w, side of the windows in vectors.
      shift: by how much the windows are shifted right and down, below w; 0 for none.
    """

    heads: int
    kernel_init: Initializer
    qkv_init: Initializer
    dtype: jnp.dtype = jnp.float32
    window: int = 7
    shift: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, gh, gw, D] -> [B, gh, gw, D]."""
        _, rows, columns, width = x.shape
        qkv = LinearParameters(3 * width, kernel_init=self.qkv_init, name="qkv")(width)
        out = LinearParameters(width, kernel_init=self.kernel_init, name="out")(width)
        x = pad_to_multiple(x.astype(self.dtype), self.window)
        padded = x.shape[1:3]
        if self.shift:
            x = jnp.roll(x, (-self.shift, -self.shift), axis=(1, 2))
        x = to_windows(x, self.window)
        x = window_attention(x, qkv, out, self.heads, self._bias(padded))
        x = from_windows(x, padded)
        if self.shift:
            x = jnp.roll(x, (self.shift, self.shift), axis=(1, 2))
        return x[:, :rows, :columns]

    def _bias(self, grid: tuple[int, int]) -> jax.Array:
        """float32 [1 or windows, H, w*w, w*w] to add to the logits, for maps of ``grid``."""
        positions = (2 * self.window - 1) ** 2
        table = self.param("relative_position_bias", normal_002, (positions, self.heads))
        # A product, not a gather, whose gradient would be scattered additions: on a GPU these are
        # neither fast nor the same from run to run.
        chosen = jax.nn.one_hot(relative_positions(self.window), positions, dtype=table.dtype)
        bias = jnp.einsum("qkp,ph->hqk", chosen, table, precision=jax.lax.Precision.HIGHEST)[None]
        if self.shift:
            region = shifted_regions(grid, self.window, self.shift)
            separate = region[:, None, :, None] != region[:, None, None, :]
            bias = bias + jnp.where(separate, SEPARATE, 0.0)
        return bias


def relative_positions(window: int) -> np.ndarray:
    """int [w*w, w*w]: number of the offset from key to query among the (2w - 1)**2 there are."""
    row, column = np.divmod(np.arange(window**2), window)
    rows = row[:, None] - row + window - 1
    columns = column[:, None] - column + window - 1
    return rows * (2 * window - 1) + columns


def shifted_regions(grid: tuple[int, int], window: int, shift: int) -> np.ndarray:
    """int [windows, w*w]: which vectors of a shifted window were neighbours before the shift.

    Those of the same number were. Only the windows of the last row and column hold several.
    """
    parts = [
        (np.arange(side) >= side - window).astype(int) + (np.arange(side) >= side - shift)
        for side in grid
    ]
    region = 3 * parts[0][:, None] + parts[1]
    return to_windows(region[None, :, :, None], window)[0, :, :, 0]


class PatchMerging(nn.Module):
    """Concatenates 2 x 2 neighbours, norms them and maps them to half of their channels."""

    norm_epsilon: float
    kernel_init: Initializer
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, gh, gw, C] -> [B, ceil(gh / 2), ceil(gw / 2), 2C]."""
        x = pad_to_multiple(x, 2)
        batch, rows, columns, width = x.shape
        x = x.reshape(batch, rows // 2, 2, columns // 2, 2, width)
        # Neighbours in the official order: (row, column) = (0, 0), (1, 0), (0, 1), (1, 1).
        x = x.transpose(0, 1, 3, 4, 2, 5).reshape(-1, 4 * width)
        x = layer_norm(self.norm_epsilon, self.dtype, "norm")(x)
        options = {"use_bias": False, "kernel_init": self.kernel_init, "dtype": self.dtype}
        x = Dense(2 * width, name="reduction", **options)(x)
        return x.reshape(batch, rows // 2, columns // 2, 2 * width)


class Swin(nn.Module):
    """Swin transformer; the pooled feature is the mean of the tokens after the final norm.

    Any image size is accepted; the module's docstring says how. Blocks are counted over the whole
    network.

    Attributes:
      embed_width: C, channels of the first stage; every further stage has twice those before it.
      depths: blocks of each stage.
      heads: of each stage.
      window: side of the windows in vectors.
      image_size: in pixels, of the images that windows and shifts are fitted to.
      initialisation: "dino" or "moco_v3" (``layers.linear_initialisers``, ``patch_embedding``).
      channels: C of the images.
      normalisation: how it takes pixels in [0, 1] (``pixels.encoder_input``); None for as they are.
      remat: of ``rematerialisation.LEVELS``.
      float32_residual: whether the sums that pass through all blocks are float32 in any dtype.
    """

    embed_width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int = 7
    image_size: ImageSize = 224
    patch_size: int = PATCH_SIZE
    mlp_ratio: float = 4.0
    drop_path: float = 0.0
    norm_epsilon: float = 1e-5
    initialisation: str = "dino"
    channels: int = 3
    normalisation: Normalisation | None = IMAGENET
    remat: str = NONE
    float32_residual: bool = False
    dtype: jnp.dtype = jnp.float32

    @property
    def depth(self) -> int:
        """Blocks of the whole network."""
        return sum(self.depths)

    @property
    def width(self) -> int:
        """Channels of tokens and pooled feature, those of the last stage."""
        return self.embed_width * 2 ** (len(self.depths) - 1)

    @property
    def taps(self) -> tuple[int, ...]:
        """Blocks that RePre taps, shallow to deep: the last one of each stage."""
        return tuple(int(last) for last in np.cumsum(self.depths) - 1)

    def stage_window(self, stage: int) -> int:
        """Side of a stage's windows: its whole map where that is not larger than the window."""
        return min(self.window, self._stage_side(stage))

    def _stage_side(self, stage: int) -> int:
        """The shorter side of a stage's map, by which the official code fits windows, too."""
        return -(-min(height_and_width(self.image_size)) // (self.patch_size * 2**stage))

    @property
    def block_strides(self) -> tuple[int, ...]:
        """Pixels per side that a vector of each block's map stands for."""
        strides = [self.patch_size * 2**stage for stage in range(len(self.depths))]
        return tuple(int(stride) for stride in np.repeat(strides, self.depths))

    @property
    def block_form(self) -> BlockForm:
        """What the blocks are like; all stages' heads are equally wide."""
        head_width = self.embed_width // self.heads[0]
        return BlockForm(
            head_width, self.norm_epsilon, self.initialisation, self.window, biased=True
        )

    @property
    def residual_dtype(self) -> jnp.dtype:
        """Of the sums that pass through all blocks, and of what comes out of the last norm."""
        return jnp.float32 if self.float32_residual else self.dtype

    @property
    def size_multiple(self) -> int:
        """What the side of every image must be a multiple of, in pixels: of nothing."""
        return 1

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> EncoderOutput:
        """Images as ``normalisation`` says -> pooled [B, 8C], tokens [B, N, 8C], for four stages.

        Sows the output of every block (see ``taps``), the last one's of a stage before the merging.
        """
        kernel_init, _ = linear_initialisers(self.initialisation)
        embed = patch_embedding(
            self.embed_width,
            self.patch_size,
            self.initialisation,
            self.dtype,
            "patch_embed",
            channels=self.channels,
        )
        x = embed(pad_to_multiple(images, self.patch_size))
        x = layer_norm(self.norm_epsilon, self.residual_dtype, "patch_norm")(x)
        k = 0
        for stage, depth in enumerate(self.depths):
            if stage:
                merging = PatchMerging(
                    self.norm_epsilon, kernel_init, self.dtype, name=f"merging_{stage}"
                )
                x = merging(x)
            x = x.astype(self.residual_dtype)
            for i in range(depth):
                x = self._block(k, stage, shifted=i % 2 == 1)(x, train)
                self.sow("intermediates", tap_name(k), BlockOutput(x, None))
                k += 1
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])
        tokens = layer_norm(self.norm_epsilon, self.residual_dtype, "norm")(tokens)
        return EncoderOutput(pooled=tokens.mean(axis=1), tokens=tokens)

    def _block(self, k: int, stage: int, shifted: bool) -> Block:
        """Block ``k`` of the network."""
        window = self.stage_window(stage)
        shift = window // 2 if shifted and window < self._stage_side(stage) else 0
        kernel_init, qkv_init = linear_initialisers(self.initialisation)
        return rematerialised(self.remat)(
            heads=self.heads[stage],
            mlp_ratio=self.mlp_ratio,
            drop_path=self.drop_path * k / max(self.depth - 1, 1),
            norm_epsilon=self.norm_epsilon,
            kernel_init=kernel_init,
            qkv_init=qkv_init,
            dtype=self.dtype,
            attention=functools.partial(WindowAttention, window=window, shift=shift),
            name=f"block_{k}",
        )


def build_swin(model: ConfigDict, dtype: jnp.dtype) -> Swin:
    """The Swin that ``config.model`` describes.

    Raises:
      UserError: another patch than Swin's, a number of heads, or positions.
    """
    if model.patch_size != PATCH_SIZE:
        raise UserError(
            f"model.patch_size={model.patch_size}, but Swin's patch is {PATCH_SIZE} pixels: set "
            f"model.patch_size={PATCH_SIZE} for {model.name}."
        )
    if model.heads or model.depth:
        raise UserError(
            f"model.heads and model.depth are one number each, and {model.name} has stages: set "
            "model.stage_heads and model.stage_depths instead."
        )
    usual = SWIN_SIZES[model.name]
    given = (model.width, model.stage_depths, model.stage_heads)
    width, depths, heads = (own or size for own, size in zip(given, usual, strict=True))
    if len(depths) != len(heads) or any(width * 2**k % h for k, h in enumerate(heads)):
        raise UserError(
            f"model.stage_depths={tuple(depths)} and model.stage_heads={tuple(heads)} must be as "
            f"many, and heads must divide the widths of the stages, {width} and twice that each."
        )
    if model.position:
        raise UserError(
            f"model.position={model.position!r}, but {model.name} has relative positions of its "
            "own: leave model.position unset."
        )
    return Swin(
        embed_width=width,
        depths=tuple(depths),
        heads=tuple(heads),
        window=model.window or 7,
        image_size=height_and_width(model.image_size),
        drop_path=model.drop_path,
        norm_epsilon=model.norm_epsilon or 1e-5,
        initialisation=model.initialisation,
        channels=model.channels,
        remat=level_of(model.remat),
        float32_residual=model.float32_residual,
        dtype=dtype,
    )
