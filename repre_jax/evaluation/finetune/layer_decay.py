"""Layer-wise learning-rate decay: the nearer to the pixels, the smaller the steps.

The patch embedding, class token and positions are layer 0, block k is layer k + 1, and everything
behind the blocks is layer depth + 1, whose learning rate is the full one; every layer below has
``decay`` times that of the layer above.

Sources: facebookresearch/mae, util/lr_decay.py (ViT); microsoft/SimMIM, optimizer.py (Swin, whose
mergings go with the last block before them).
"""

import re
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax

_FIRST = ("patch_embed", "patch_norm", "class_token", "position_embedding")


def layer_scales(params: Any, encoder: nn.Module, decay: float) -> Any:
    """Tree of floats: by what the learning rate of each parameter is multiplied.

    Args:
      params: {"encoder": of ``encoder``, anything else behind it}.
      encoder: of ``models.BACKBONES``.
      decay: at most 1; 1 for one learning rate.
    """
    last = encoder.depth + 1

    def scale(path, _):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return decay ** (last - layer_of(name, encoder))

    return jax.tree_util.tree_map_with_path(scale, params)


def layer_of(name: str, encoder: nn.Module) -> int:
    """Number of the layer of the parameter "encoder/block_0/mlp/up/kernel", from 0 to depth + 1.

    Raises:
      ValueError: a part of the encoder that has no place here yet.
    """
    if not name.startswith("encoder/"):
        return encoder.depth + 1
    part = name.split("/")[1]
    if part in _FIRST:
        return 0
    if part == "norm":
        return encoder.depth + 1
    if block := re.fullmatch(r"block_(\d+)", part):
        return int(block[1]) + 1
    if merging := re.fullmatch(r"merging_(\d+)", part):
        return int(np.cumsum(encoder.depths)[int(merging[1]) - 1])
    raise ValueError(f"{name}: no layer is known for {part!r}")


def scale_by_layer(scales: Any) -> optax.GradientTransformation:
    """Multiplies each update by its number in a tree of ``layer_scales``."""
    return optax.stateless(
        lambda updates, params: jax.tree.map(lambda update, s: update * s, updates, scales)
    )
