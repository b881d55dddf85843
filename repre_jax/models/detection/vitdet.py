"""A pre-trained ViT as the backbone of a detector (ViTDet, arXiv 2203.16527).

Images are large there, so most blocks attend inside windows, and a few, at even intervals, over the
whole map; all of them learn decomposed relative positions, which begin at zero: at the beginning
the network is the pre-trained one. Sources: detectron2, modeling/backbone/vit.py and utils.py,
configs/common/models/mask_rcnn_vitdet.py.

LoMaR's encoders keep their own relative positions inside the attention besides.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from repre_jax.models.attention import attend_to
from repre_jax.models.dense import Dense
from repre_jax.models.layers import Initializer
from repre_jax.models.partition import from_windows, pad_to_multiple, to_windows
from repre_jax.models.positions import bicubic_resize_matrix, sincos_2d
from repre_jax.models.relative_positions import BUCKETS, relative_logits_of_map
from repre_jax.models.taps import BlockOutput, even_taps, tap_name
from repre_jax.models.vit import ViT

_GLOBAL_BLOCKS = 4  # 2, 5, 8 and 11 of 12; the same blocks that RePre taps


class MapAttention(nn.Module):
    """Multi-head self-attention over a map or inside its windows, with relative positions.

    One fused query-key-value kernel as in ``layers.Attention``. Maps are padded right and bottom
    with zeros up to whole windows, which the attention sees, as in the source.

    Attributes:
      window: side of the windows in vectors; None for one over the whole map.
      keys_know_offsets: LoMaR's relative positions (``relative_positions``), as it was trained.
    """

    heads: int
    kernel_init: Initializer
    qkv_init: Initializer
    dtype: jnp.dtype = jnp.float32
    window: int | None = None
    keys_know_offsets: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, gh, gw, D] -> [B, gh, gw, D]."""
        batch, rows, columns, width = x.shape
        grid = (rows, columns)
        if self.window:
            x = pad_to_multiple(x, self.window)
            padded = x.shape[1:3]
            grid = (self.window, self.window)
            x = to_windows(x, self.window)
        qkv = Dense(3 * width, kernel_init=self.qkv_init, dtype=self.dtype, name="qkv")(
            x.reshape(-1, width)
        )
        # Windows are the batch of the attention, and examples are mapped over: what is sharded
        # stays where it is.
        qkv = qkv.reshape(batch, -1, grid[0] * grid[1], 3, self.heads, width // self.heads)
        query, key, value = (qkv[..., k, :, :] for k in range(3))
        offsets = self._offset_vectors(grid, width // self.heads)
        products = self._products(query)
        attend_all = jax.vmap(functools.partial(_attend, grid=grid, offsets=offsets))
        x = attend_all(query, key, value, products)
        x = x.reshape(-1, width)
        x = Dense(width, kernel_init=self.kernel_init, dtype=self.dtype, name="out")(x)
        if not self.window:
            return x.reshape(batch, rows, columns, width)
        x = from_windows(x.reshape(batch, -1, self.window**2, width), padded)
        return x[:, :rows, :columns]

    def _offset_vectors(self, grid: tuple[int, int], width: int) -> tuple[jax.Array, jax.Array]:
        """Vectors [side, side, D / H] of (query, key) along each axis."""

        def of_axis(name, side):
            table = self.param(name, nn.initializers.zeros, (2 * side - 1, width))
            place = np.arange(side)
            # A product, not a gather, whose gradient would be scattered additions.
            chosen = np.eye(2 * side - 1, dtype=np.float32)[place[:, None] - place + side - 1]
            exact = jax.lax.Precision.HIGHEST
            return jnp.einsum("qko,od->qkd", chosen, table, precision=exact).astype(self.dtype)

        return of_axis("row_offset", grid[0]), of_axis("column_offset", grid[1])

    def _products(self, query: jax.Array) -> jax.Array | None:
        if not self.keys_know_offsets:
            return None
        dense = Dense(
            BUCKETS,
            use_bias=False,
            kernel_init=nn.initializers.zeros,
            dtype=self.dtype,
            name="relative_position",
        )
        return dense(query).astype(jnp.float32)


def _attend(query, key, value, products, *, grid, offsets):
    """Attention of [windows, N, H, D / H] whose logits know the offset from query to key.

    The logits get q . R[y - y'] + q . C[x - x']: a sum over the rows and one over the columns of
    the keys, so it is put into the products of longer queries and keys, of which the latter say in
    ones and zeros where they are. A bias would take 4 N**2 bytes a head, 64 MB at 64 x 64 vectors.
    """
    batch, _, heads, width = query.shape
    on_map = query.reshape(batch, *grid, heads, width)
    of_rows = jnp.einsum("byxhd,ykd->byxhk", on_map, offsets[0])
    of_columns = jnp.einsum("byxhd,xkd->byxhk", on_map, offsets[1])
    longer = jnp.concatenate([on_map * width**-0.5, of_rows, of_columns], axis=-1)
    longer = longer.reshape(*query.shape[:3], -1)
    rows, columns = (jnp.eye(side, dtype=key.dtype) for side in grid)
    place = jnp.concatenate(
        [jnp.repeat(rows, grid[1], axis=0), jnp.tile(columns, (grid[0], 1))], axis=-1
    )
    place = jnp.broadcast_to(place[None, :, None], (*key.shape[:3], place.shape[-1]))
    bias = None if products is None else relative_logits_of_map(products, grid)
    # What ``attend_to`` divides the logits by is taken back.
    longer = longer * longer.shape[-1] ** 0.5
    return attend_to(longer, jnp.concatenate([key, place], axis=-1), value, bias)


class DetectionViT(ViT):
    """A ViT that gives maps of large images: no class token, no final norm, windows.

    Its parameters are the ViT's but for those; absolute positions are parameters of the grid that
    they were trained for, resized at every use.

    Attributes:
      window: side of the windows in vectors.
      position_grid: of the absolute positions; None without.
    """

    window: int = 14
    position_grid: tuple[int, int] | None = None

    @property
    def pyramid_blocks(self) -> tuple[int, ...]:
        """Blocks whose maps the detector takes."""
        return (self.depth - 1,)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """[B, H, W, C] as ``normalisation`` says -> [B, gh, gw, D]; sows the last block's output.

        The sides of the images are multiples of the patch.
        """
        x = self._embed_patches(images, train).astype(self.residual_dtype)
        if self.position_grid:
            x = x + self._map_positions(x.shape[1:3])
        everywhere = even_taps(self.depth, min(_GLOBAL_BLOCKS, self.depth))
        for k in range(self.depth):
            attention = functools.partial(
                MapAttention,
                window=None if k in everywhere else self.window,
                keys_know_offsets=self.position == "relative",
            )
            x = self._block(k, attention)(x, train)
        self.sow("intermediates", tap_name(self.depth - 1), BlockOutput(x, None))
        return x

    def _map_positions(self, grid: tuple[int, int]) -> jax.Array:
        """[1, gh, gw, D] in ``residual_dtype``."""
        rows, columns = self.position_grid
        shape = (1, rows * columns, self.width)
        positions = self.param("position_embedding", nn.initializers.normal(0.02), shape)
        positions = jnp.einsum(
            "yr,xc,brcd->byxd",
            bicubic_resize_matrix(rows, grid[0], guard=0.0),
            bicubic_resize_matrix(columns, grid[1], guard=0.0),
            positions.reshape(1, rows, columns, self.width),
            precision=jax.lax.Precision.HIGHEST,
        )
        return positions.astype(self.residual_dtype)


def detection_vit(
    vit: ViT, params: Any, *, window: int, drop_path: float, remat: str
) -> tuple[DetectionViT, Any]:
    """A pre-trained ViT and its parameters as a backbone, and what it lacks at its beginning.

    Fixed positions become parameters, as those of MAE do in detectron2.

    Args:
      vit: in its ``frozen`` form.
      params: its parameters.
      window: side of the windows in vectors.
      drop_path: of the last block.
      remat: as of ``ViT``.
    """
    fields = {
        field.name: getattr(vit, field.name)
        for field in dataclasses.fields(vit)
        if field.name not in ("parent", "name")
    }
    grid = None if vit.position == "relative" else vit.grid
    changed = {"drop_path": drop_path, "remat": remat, "window": window, "position_grid": grid}
    backbone = DetectionViT(**fields | changed)
    positions = params.get("position_embedding")
    kept = {k: v for k, v in params.items() if k == "patch_embed" or k.startswith("block_")}
    if grid:
        if positions is None:
            columns_first = vit.position == "sincos_columns_first"
            positions = sincos_2d(grid, vit.width, columns_first=columns_first)
        kept["position_embedding"] = positions[:, 1:]
    return backbone, kept
