"""What kind of encoder tensors are of, read off their shapes, names and values."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from repre_jax.convert.exportable import official_epsilon
from repre_jax.convert.names import Names, Tensors
from repre_jax.errors import UserError
from repre_jax.image_size import ImageSize
from repre_jax.methods import METHODS
from repre_jax.models.positions import sincos_2d
from repre_jax.models.swin import PATCH_SIZE, SWIN_SIZES
from repre_jax.models.vit import VIT_SIZES

IMPORTED = "imported"  # method of encoders that none of ``METHODS`` has trained
# Of all published ViTs by their width, but MoCo v3's ViT-S, which has twice as many.
_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
# By which a method's files are told, in this order: "mocov3" before "moco".
_IN_FILE_NAMES = {
    "dino": r"(^|[^a-z])dino(v[12])?([^a-z]|$)",
    "moco_v3": r"moco[-_]?v?3|(^|[-_])vit-[sb]-300ep",
    "mae": r"(^|[-_./])mae([-_./]|$)",
    "lomar": r"lomar",
    "moby": r"moby",
}
_POSITION_NAMES = ("pos_embed", "embeddings.position_embeddings", "pos_embedding")
_LOMAR_TABLE = "blocks.0.attn.rpe_k.lookup_table_weight"  # [1, D / H, buckets]
_FIXED = {"sincos": "moco_v3", "sincos_columns_first": "mae"}  # positions and who has them


class Told(NamedTuple):
    """What the user says of a file because its tensors do not; None for what is to be read off.

    Attributes:
      method: of ``METHODS``, or "imported".
      heads: of a ViT.
      image_size: in pixels, to resize learned positions for; of a Swin, what it is made for.
      window: of a Swin, to resize its tables for.
      norm_epsilon: of every norm.
      pixels: "imagenet", "half" or "unit": how pixels are normalised.
    """

    method: str | None = None
    heads: int | None = None
    image_size: ImageSize | None = None
    window: int | None = None
    norm_epsilon: float | None = None
    pixels: str | None = None


def method_of(all_names: list[str], tensors: Tensors, name: str) -> str:
    """The method that trained an encoder, or "imported" where nothing says so.

    Args:
      all_names: of the tensors of the whole file.
      tensors: of the encoder.
      name: of the file or folder, and what its config says of its origin.
    """
    joined = "\n".join(all_names)
    signs = {
        "lomar": r"\.rpe_k\.",
        "mae": r"(^|\.)decoder(_embed|\.decoder_embed)\.",
        "moby": r"(^|\.)projector_k\.linear_hidden\.",
        "moco_v3": r"(^|\.)momentum_encoder\.",
        "dino": r"(^|\.)(teacher|student)\.",
    }
    for method, sign in signs.items():
        if re.search(sign, joined, re.MULTILINE):
            return method
    fixed = fixed_positions(tensors)
    if fixed:
        return _FIXED[fixed]
    for method, pattern in _IN_FILE_NAMES.items():
        if re.search(pattern, name.lower()):
            return method
    return IMPORTED


def fixed_positions(tensors: Tensors) -> str | None:
    """ "sincos" or "sincos_columns_first" where the positions are these very numbers."""
    positions = next((tensors[n] for n in _POSITION_NAMES if n in tensors), None)
    if positions is None or positions.ndim != 3 or positions.shape[2] % 4:
        return None
    side = round((positions.shape[1] - 1) ** 0.5)
    if side**2 != positions.shape[1] - 1:
        return None
    for kind in _FIXED:
        made = sincos_2d((side, side), positions.shape[2], columns_first=kind != "sincos")
        # Others computed their angles in float32: up to the side times its rounding error away.
        if np.allclose(made, positions, rtol=0, atol=1e-5):
            return kind
    return None


def vit_model(
    names: Names, tensors: Tensors, method: str, about: Mapping[str, Any], told: Told
) -> dict[str, Any]:
    """Keys of ``config.model`` of a ViT; see ``describe``."""
    kernel = tensors[names.anchor]
    if kernel.ndim != 4:
        raise UserError(f"{names.anchor} is {list(kernel.shape)}: images need four axes there.")
    width, channels, *patches = kernel.shape
    if names.flax:
        *patches, channels, width = kernel.shape
    if patches[0] != patches[1]:
        raise UserError(f"its patches are {patches[0]} x {patches[1]}, and ours are square.")
    depth = _count(lambda k: names.of(f"block_{k}/norm_1/scale", (10**6,))[0] in tensors)
    relative = _LOMAR_TABLE in tensors
    position = "relative" if relative else fixed_positions(tensors) or "learned"
    heads = told.heads or about.get("heads") or _heads(names, tensors, method, width)
    positions = next((tensors[n] for n in _POSITION_NAMES if n in tensors), None)
    return _sized("vit", VIT_SIZES, (width, depth, heads), ("width", "depth", "heads")) | {
        "patch_size": int(patches[0]),
        "image_size": _image_size(positions, int(patches[0]), about.get("image_size")),
        "channels": int(channels),
        "position": position,
        "norm_epsilon": told.norm_epsilon
        or about.get("norm_epsilon")
        or official_epsilon("vit", method),
        "initialisation": {"sincos": "moco_v3", "learned": "dino"}.get(position, "mae"),
    }


def _heads(names: Names, tensors: Tensors, method: str, width: int) -> int:
    """Heads of a ViT: as Flax's kernels and LoMaR's tables tell, or as published."""
    if names.flax:
        query = tensors.get(names.of("block_0/attention/qkv/kernel", (1,))[0])
        if query is not None and query.ndim == 3:
            return int(query.shape[1])
    if _LOMAR_TABLE in tensors:
        return width // tensors[_LOMAR_TABLE].shape[1]
    twice = method == "moco_v3" and width == 384  # facebookresearch/moco-v3, vits.py
    heads = 12 if twice else _HEADS.get(width)
    if not heads:
        raise UserError(
            f"no tensor tells the heads of a ViT of width {width}: set heads=<number> with "
            "--config=configs/import.py."
        )
    return heads


def swin_model(
    names: Names, tensors: Tensors, method: str, about: Mapping[str, Any], told: Told
) -> dict[str, Any]:
    """Keys of ``config.model`` of a Swin; see ``describe``.

    Windows are read off the tables of the first stage. Published networks are made for images of
    32 windows' vectors a side, whose last map is one window.
    """
    layer, (table,) = names.layers["block/norm_1"][0], names.tensors.values()
    depths: list[int] = []
    while count := _count(
        lambda k: layer.format(stage=len(depths), block=k) + ".weight" in tensors
    ):
        depths.append(count)
    tables = [tensors.get(table.format(stage=s, block=0)) for s in range(len(depths))]
    if not depths or any(x is None or x.ndim != 2 for x in tables):
        raise UserError("a table of relative positions is missing: this is not the whole Swin.")
    heads = tuple(int(x.shape[1]) for x in tables)
    window = (round(len(tables[0]) ** 0.5) + 1) // 2
    kernel = tensors[names.anchor]
    size = _size_of_windows(tensors, window) or about.get("image_size")
    return _sized(
        "swin",
        SWIN_SIZES,
        (int(kernel.shape[0]), tuple(depths), heads),
        ("width", "stage_depths", "stage_heads"),
    ) | {
        "patch_size": int(kernel.shape[2]),
        "image_size": size or 32 * window,
        "channels": int(kernel.shape[1]),
        "window": window,
        "norm_epsilon": told.norm_epsilon
        or about.get("norm_epsilon")
        or official_epsilon("swin", method),
        "initialisation": "dino",
    }


def describe(
    names: Names, tensors: Tensors, method: str, about: Mapping[str, Any], told: Told
) -> dict[str, Any]:
    """Keys of ``config.model``, those that ``defaults.get_config`` has.

    Args:
      names: of the format.
      tensors: of the encoder, in their ``forms.usual_form``.
      method: that trained it.
      about: what a folder's config says: "heads", "norm_epsilon", "image_size"; maybe none of it.
      told: by the user.

    Raises:
      UserError: tensors of another kind of encoder, or what has to be told.
    """
    if names.kind == "vit":
        return vit_model(names, tensors, method, about, told)
    return swin_model(names, tensors, method, about, told)


def _image_size(positions: np.ndarray | None, patch_size: int, told: ImageSize | None) -> ImageSize:
    """Size of the images that positions are of; the usual 224 where there are none."""
    if positions is None:
        return 224 // patch_size * patch_size
    patches = positions.shape[1] - 1 if positions.ndim == 3 else 0
    if isinstance(told, tuple) and patches == math.prod(side // patch_size for side in told):
        return told
    side = round(max(patches, 0) ** 0.5)
    if not side or side**2 != patches:
        raise UserError(
            f"its positions are {list(positions.shape)}, and ours are of one class token and a "
            "square of patches: the tokens are other ones, or the images no squares."
        )
    return side * patch_size


def _size_of_windows(tensors: Tensors, window: int) -> int | None:
    """Of the mask of the first shifted block, [windows, w*w, w*w], where a file has it."""
    mask = tensors.get("layers.0.blocks.1.attn_mask")
    return None if mask is None else round(len(mask) ** 0.5) * window * PATCH_SIZE


def _count(there) -> int:
    count = 0
    while there(count):
        count += 1
    return count


def _sized(
    kind: str, sizes: Mapping[str, tuple], given: tuple, keys: tuple[str, ...]
) -> dict[str, Any]:
    """{"name", and the sizes that the name does not stand for}."""
    plain = {name: size for name, size in sizes.items() if "conv" not in name}
    exact = next((name for name, size in plain.items() if tuple(size) == given), None)
    # Without one, the name of those that are next in width and depth.
    nearest = min(
        plain,
        key=lambda name: (
            abs(plain[name][0] - given[0]),
            abs(np.sum(plain[name][1]) - np.sum(given[1])),
        ),
    )
    own = {} if exact else dict(zip(keys, given, strict=True))
    return {"name": exact or nearest} | own


def known_methods() -> tuple[str, ...]:
    """What ``Told.method`` may be."""
    return (*METHODS, IMPORTED)
