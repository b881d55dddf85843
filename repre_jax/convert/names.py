"""Names and layouts of an encoder's tensors in another format and here, in both directions."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from repre_jax.errors import UserError

Tensors = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Names:
    """The names of one format.

    In names of ours "block" and "merging" stand for every block and merging; in names of theirs
    {block} is the number of a block in its stage, {stage} that of the stage it lies in or leads to.

    Attributes:
      title: what messages call the format.
      kind: "vit" or "swin".
      anchor: the kernel of the patches, by which an encoder is found in a file.
      tensors: path of ours -> name of theirs, of parameters that are no part of a layer.
      layers: path of ours -> names of theirs; several, and they are the parts of a fused one.
      leftovers: regular expressions of what else lies beside these tensors: heads, decoders,
        buffers that are computed anew.
      flax: whether kernels lie as in Flax, and not as in torch.
    """

    title: str
    kind: str
    anchor: str
    tensors: Mapping[str, str]
    layers: Mapping[str, tuple[str, ...]]
    leftovers: tuple[str, ...]
    flax: bool = False

    def of(self, path: str, depths: Sequence[int]) -> tuple[str, ...]:
        """The names of theirs that hold our parameter.

        Args:
          path: "block_3/attention/qkv/kernel", say.
          depths: blocks of each stage; a ViT has one stage.
        """
        path, place = _place(path, depths)
        if path in self.tensors:
            return (self.tensors[path].format(**place),)
        layer, leaf = path.rsplit("/", 1)
        if not self.flax:
            leaf = "bias" if leaf == "bias" else "weight"
        apart = "/" if self.flax else "."
        return tuple(name.format(**place) + apart + leaf for name in self.layers[layer])


def has_place(names: Names, path: str) -> bool:
    """Whether the format has a place for our parameter at all."""
    path, _ = _place(path, (10**6,) * 4)
    return path in names.tensors or path.rsplit("/", 1)[0] in names.layers


def to_ours(names: Names, theirs: Tensors, shapes: Any, depths: Sequence[int]) -> tuple[Any, set]:
    """Parameters of our encoder, float32, and the names that they were made of.

    Args:
      names: of the format.
      theirs: its tensors.
      shapes: our parameters, abstract ones say.
      depths: blocks of each stage.

    Raises:
      UserError: a tensor that is missing, not finite, or of another shape than ours.
    """
    flat, used = {}, set()
    for path, shape in flatten_dict(shapes, sep="/").items():
        parts = names.of(path, depths)
        missing = [name for name in parts if name not in theirs]
        if missing:
            raise UserError(f"{missing[0]} is missing: this is not the whole encoder.")
        used |= set(parts)
        arrays = [np.asarray(theirs[name], np.float32) for name in parts]
        try:
            value = (_from_flax if names.flax else _from_torch)(path, arrays)
        except ValueError:  # axes that do not fit say nothing that the shapes do not
            value = arrays[0]
        if value.shape != shape.shape:
            there = " and ".join(str(list(array.shape)) for array in arrays)
            raise UserError(
                f"{', '.join(parts)} is {there}, which makes {list(value.shape)}, and an encoder "
                f"of this width and depth has {list(shape.shape)}: {_advice(path)}"
            )
        if not np.isfinite(value).all():
            raise UserError(f"{', '.join(parts)} holds numbers that are not finite.")
        flat[path] = np.ascontiguousarray(value)
    return unflatten_dict(flat, sep="/"), used


def _advice(path: str) -> str:
    if path.endswith("relative_position_bias"):  # of a window that may be a map's, see ``Swin``
        return (
            "set image_size=<pixels> to what it is made for, or window=<tokens>, with "
            "--config=configs/import.py."
        )
    return "it is another architecture."


def to_theirs(names: Names, ours: Any, depths: Sequence[int], heads: int) -> dict[str, np.ndarray]:
    """The tensors of a format from our parameters; undoes ``to_ours`` bit for bit.

    Args:
      names: of the format, which has a place for all of them (``has_place``).
      ours: parameters of an encoder.
      depths: blocks of each stage.
      heads: of the attention; of interest to big_vision, which keeps them apart.
    """
    theirs = {}
    for path, value in flatten_dict(ours, sep="/").items():
        parts = names.of(path, depths)
        value = np.asarray(value, np.float32)
        if names.flax:
            arrays = _to_flax(path, value, len(parts), heads)
        else:
            arrays = _to_torch(path, value, len(parts))
        theirs |= {n: np.ascontiguousarray(a) for n, a in zip(parts, arrays, strict=True)}
    return theirs


def _place(path: str, depths: Sequence[int]) -> tuple[str, dict[str, int]]:
    """("block/norm_1/scale", where that block is) of "block_7/norm_1/scale"."""
    found = re.match(r"(block|merging)_(\d+)/", path)
    if not found:
        return path, {}
    number = int(found[2])
    path = f"{found[1]}/{path[found.end() :]}"
    if found[1] == "merging":
        return path, {"stage": number, "before": number - 1}
    stage = 0
    while number >= depths[stage]:
        number -= depths[stage]
        stage += 1
    return path, {"stage": stage, "block": number}


def _from_torch(path: str, arrays: list[np.ndarray]) -> np.ndarray:
    """torch's Linear is [out, in], its convolution [out, in, height, width]."""
    if path.endswith("relative_position/kernel"):
        return arrays[0][0]  # [1, D / H, buckets]: one table for all heads
    value = np.concatenate(arrays) if len(arrays) > 1 else arrays[0]
    if path.endswith("kernel"):
        return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
    return value


def _to_torch(path: str, value: np.ndarray, parts: int) -> list[np.ndarray]:
    if path.endswith("relative_position/kernel"):
        return [value[None]]
    if path.endswith("kernel"):
        value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
    return np.split(value, parts)


def _from_flax(path: str, arrays: list[np.ndarray]) -> np.ndarray:
    """Flax's attention keeps heads apart: [D, H, D / H], and [H, D / H, D] on the way out."""
    if path.endswith("qkv/kernel"):
        return np.concatenate([a.reshape(len(a), -1) for a in arrays], axis=1)
    if path.endswith("qkv/bias"):
        return np.concatenate([a.reshape(-1) for a in arrays])
    if path.endswith("out/kernel"):
        return arrays[0].reshape(-1, arrays[0].shape[-1])
    return arrays[0]


def _to_flax(path: str, value: np.ndarray, parts: int, heads: int) -> list[np.ndarray]:
    if "/qkv/" in path:
        return [a.reshape(*a.shape[:-1], heads, -1) for a in np.split(value, parts, axis=-1)]
    if path.endswith("out/kernel"):
        return [value.reshape(heads, -1, value.shape[-1])]
    return [value]
