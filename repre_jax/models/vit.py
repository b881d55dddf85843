"""Vision transformer (arXiv 2010.11929) in the forms that DINO, MoCo v3, MAE and LoMaR train."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from repre_jax.errors import UserError
from repre_jax.image_size import ImageSize, height_and_width
from repre_jax.models.attention import padded
from repre_jax.models.conv_stem import ConvStem, halvings
from repre_jax.models.layers import (
    Attention,
    BlockForm,
    layer_norm,
    linear_initialisers,
    normal_002,
    patch_embedding,
    rematerialised,
)
from repre_jax.models.pixels import IMAGENET, Normalisation
from repre_jax.models.positions import bicubic_resize_matrix, sincos_2d
from repre_jax.models.relative_positions import RelativeAttention
from repre_jax.models.taps import BlockOutput, EncoderOutput, even_taps, tap_name
from repre_jax.rematerialisation import NONE, level_of

# name -> (width D, blocks, heads). nano and micro are for small images and small budgets; huge has
# patches of 14 pixels in MAE.
VIT_SIZES = {
    "vit_nano": (128, 4, 4),
    "vit_micro": (192, 6, 3),
    "vit_tiny": (192, 12, 3),
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
    "vit_large": (1024, 24, 16),
    "vit_huge": (1280, 32, 16),
    # With a convolutional stem in place of the patch embedding and, nano excepted, of one block.
    "vit_conv_nano": (128, 4, 4),
    "vit_conv_small": (384, 11, 12),
    "vit_conv_base": (768, 11, 12),
}
# Of MoCo v3 ("sincos") and of MAE ("sincos_columns_first"), LoMaR ("relative").
POSITIONS = ("learned", "sincos", "sincos_columns_first", "relative")


class ViT(nn.Module):
    """Vision transformer; the pooled feature is the class token after the final norm.

    Any image whose sides the patch divides is accepted. Sin-cos positions are made for the grid at
    hand; learned ones are of the grid of ``image_size`` and are resized as the official DINO does
    (``positions.bicubic_resize_matrix``); relative ones, LoMaR's, fit every grid.

    Attributes:
      image_size: in pixels, of the images that learned positions are made for.
      stem: None for the linear map of patches; "conv"; or what ``models.conv_stem`` makes of such
        an encoder: "folded", or "outside", which takes [B, gh, gw, D] in place of images.
      position: of ``POSITIONS``; "relative" acts inside the attention and adds nothing to tokens.
      initialisation: "dino", "moco_v3" or "mae" (``layers.linear_initialisers``,
        ``layers.patch_embedding``).
      channels: C of the images.
      normalisation: how it takes pixels in [0, 1] (``pixels.encoder_input``); None for as they are.
      remat: of ``rematerialisation.LEVELS``.
      float32_residual: whether the sums that pass through all blocks are float32 in any dtype.
    """

    patch_size: int
    width: int
    depth: int
    heads: int
    image_size: ImageSize
    mlp_ratio: float = 4.0
    stem: str | None = None
    position: str = "learned"
    initialisation: str = "dino"
    drop_path: float = 0.0
    norm_epsilon: float = 1e-6
    channels: int = 3
    normalisation: Normalisation | None = IMAGENET
    remat: str = NONE
    float32_residual: bool = False
    dtype: jnp.dtype = jnp.float32

    @property
    def grid(self) -> tuple[int, int]:
        """(gh, gw): patches of an image of ``image_size``."""
        height, width = height_and_width(self.image_size)
        return height // self.patch_size, width // self.patch_size

    @property
    def taps(self) -> tuple[int, ...]:
        """Blocks that RePre taps, shallow to deep."""
        return even_taps(self.depth)

    @property
    def block_strides(self) -> tuple[int, ...]:
        """Pixels per side that a vector of each block's map stands for."""
        return (self.patch_size,) * self.depth

    @property
    def block_form(self) -> BlockForm:
        """What the blocks are like."""
        biased = self.position == "relative"
        head_width = self.width // self.heads
        return BlockForm(head_width, self.norm_epsilon, self.initialisation, biased=biased)

    @property
    def residual_dtype(self) -> jnp.dtype:
        """Of the sums that pass through all blocks, and of what comes out of the last norm."""
        return jnp.float32 if self.float32_residual else self.dtype

    @property
    def size_multiple(self) -> int:
        """What the side of every image must be a multiple of, in pixels."""
        return self.patch_size

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        train: bool = False,
        change_tokens: Callable[[jax.Array], jax.Array] | None = None,
    ) -> EncoderOutput:
        """[B, H, W, C] as ``normalisation`` says -> pooled [B, D], tokens [B, gh*gw, D].

        Sows the output of every block (see ``taps``), unless tokens were taken away.

        Args:
          images: whose sides are multiples of the patch, or it is a ValueError.
          train: whether drop path acts, and BatchNorm has the batch's statistics.
          change_tokens: what is done to the embedded patches [B, gh*gw, D], positions added, before
            the class token joins them: methods of reconstruction replace some, or keep a few.
        """
        batch, height, width, _ = images.shape
        patch_size = 1 if self.stem == "outside" else self.patch_size
        if height % patch_size or width % patch_size:
            raise ValueError(f"image {height}x{width} is not divisible by patch {patch_size}")
        grid = (height // patch_size, width // patch_size)
        x = self._embed_patches(images, train).reshape(batch, grid[0] * grid[1], self.width)
        x = x.astype(self.residual_dtype)
        x = self._prepend_class_token(x)
        attention = Attention
        if self.position == "relative":
            attention = functools.partial(RelativeAttention, grid=grid)
        else:
            x = x + self._positions(grid)
        if change_tokens:
            x = jnp.concatenate([x[:, :1], change_tokens(x[:, 1:])], axis=1)
        tokens = x.shape[1]
        x = padded(x, self.heads, self.dtype, self.block_form.biased)
        attention = functools.partial(attention, seen=tokens)
        for k in range(self.depth):
            x = self._block(k, attention)(x, train)
            if tokens == 1 + grid[0] * grid[1]:
                feature_map = x[:, 1:tokens].reshape(batch, *grid, self.width)
                self.sow("intermediates", tap_name(k), BlockOutput(feature_map, x[:, 0]))
        x = layer_norm(self.norm_epsilon, self.residual_dtype, "norm")(x)
        return EncoderOutput(pooled=x[:, 0], tokens=x[:, 1:tokens])

    def _block(self, k: int, attention: Callable[..., nn.Module]) -> nn.Module:
        """Block k, whose attention ``attention`` makes."""
        kernel_init, qkv_init = linear_initialisers(self.initialisation)
        return rematerialised(self.remat)(
            heads=self.heads,
            mlp_ratio=self.mlp_ratio,
            drop_path=self.drop_path * k / max(self.depth - 1, 1),
            norm_epsilon=self.norm_epsilon,
            kernel_init=kernel_init,
            qkv_init=qkv_init,
            dtype=self.dtype,
            attention=attention,
            name=f"block_{k}",
        )

    def _embed_patches(self, images: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, gh, gw, D]."""
        if self.stem == "outside":
            return images
        if self.stem:
            form = (self.width, self.patch_size, self.stem == "folded", self.dtype)
            return ConvStem(*form, name="patch_embed")(images, train)
        embed = patch_embedding(
            self.width,
            self.patch_size,
            self.initialisation,
            self.dtype,
            "patch_embed",
            channels=self.channels,
        )
        return embed(images)

    def _prepend_class_token(self, x: jax.Array) -> jax.Array:
        std = 1e-6 if self.initialisation == "moco_v3" else 0.02
        token = self.param("class_token", nn.initializers.normal(std), (1, 1, self.width))
        token = jnp.broadcast_to(token.astype(x.dtype), (x.shape[0], 1, self.width))
        return jnp.concatenate([token, x], axis=1)

    def _positions(self, grid: tuple[int, int]) -> jax.Array:
        """[1, 1 + gh*gw, D] in ``residual_dtype``."""
        if self.position != "learned":
            columns_first = self.position == "sincos_columns_first"
            positions = sincos_2d(grid, self.width, columns_first=columns_first)
            return jnp.asarray(positions, self.residual_dtype)
        rows, columns = self.grid
        shape = (1, 1 + rows * columns, self.width)
        positions = self.param("position_embedding", normal_002, shape)
        if grid != (rows, columns):
            class_position, patches = positions[:, :1], positions[:, 1:]
            patches = jnp.einsum(
                "yr,xc,brcd->byxd",
                bicubic_resize_matrix(rows, grid[0]),
                bicubic_resize_matrix(columns, grid[1]),
                patches.reshape(1, rows, columns, self.width),
                precision=jax.lax.Precision.HIGHEST,
            )
            patches = patches.reshape(1, grid[0] * grid[1], self.width)
            positions = jnp.concatenate([class_position, patches], axis=1)
        return positions.astype(self.residual_dtype)


def build_vit(model: ConfigDict, dtype: jnp.dtype) -> ViT:
    """The ViT that ``config.model`` describes.

    Raises:
      UserError: image size not divisible by the patch, a width not divisible by the heads, a
        window, or sizes that a convolutional stem cannot have.
    """
    if model.window:
        raise UserError(f"model.window={model.window}, but {model.name} has no windows: unset it.")
    if model.stage_depths or model.stage_heads:
        raise UserError(
            f"model.stage_depths and model.stage_heads are Swin's: unset them for {model.name}."
        )
    usual = VIT_SIZES[model.name]
    given = (model.width, model.depth, model.heads)
    width, depth, heads = (own or size for own, size in zip(given, usual, strict=True))
    size = height_and_width(model.image_size)
    if any(side % model.patch_size for side in size):
        raise UserError(
            f"model.image_size={model.image_size} is not a multiple of "
            f"model.patch_size={model.patch_size}."
        )
    if width % heads:
        raise UserError(f"model.heads={heads} does not divide the width {width} of {model.name}.")
    if width % 4 and (model.position or "").startswith("sincos"):
        raise UserError(f"model.position={model.position} needs a width divisible by 4.")
    stem = "conv" if model.name.startswith("vit_conv") else None
    if stem:
        _check_conv_stem(model, width)
    return ViT(
        patch_size=model.patch_size,
        width=width,
        depth=depth,
        heads=heads,
        image_size=size,
        stem=stem,
        position=model.position or "learned",
        initialisation=model.initialisation,
        drop_path=model.drop_path,
        norm_epsilon=model.norm_epsilon or 1e-6,
        channels=model.channels,
        remat=level_of(model.remat),
        float32_residual=model.float32_residual,
        dtype=dtype,
    )


def _check_conv_stem(model: ConfigDict, width: int) -> None:
    layers = halvings(model.patch_size)
    if not layers or model.patch_size != 2**layers:
        raise UserError(
            f"model.patch_size={model.patch_size}, but the stem of {model.name} halves images: set "
            "it to a power of two above 1."
        )
    if width % 2 ** (layers - 1):
        raise UserError(
            f"The stem of {model.name} needs a width divisible by {2 ** (layers - 1)} at "
            f"model.patch_size={model.patch_size}; it is {width}."
        )
