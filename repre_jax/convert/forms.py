"""Brings what formats do in several ways to the one way that the tables of names know.

DINOv2 and DeiT III scale the output of attention and MLP by a learned vector (LayerScale). A
product of a linear map and a constant is a linear map, so these are folded into the projections
before them; the vectors themselves are not kept. DeiT III's class token has no position, which is
one of zeros. DINOv2 keeps its blocks in chunks while it trains. big_vision has three generations of
names (fix_old_checkpoints in models/vit.py), stacks the blocks that it scans over, and gives no
position to the class token.
"""

import math
import re

import numpy as np

from repre_jax.convert.names import Names, Tensors
from repre_jax.convert.tables import BIG_VISION, HUGGING_FACE_DINOV2, VIT
from repre_jax.errors import UserError
from repre_jax.image_size import ImageSize

# What no encoder here has, and why that matters.
_REFUSED = {
    r"(dist_token|.*distillation_token)$": "has a distillation token in its attention",
    r"(reg_token|.*register_tokens)$": "has registers in its attention",
    r"fc_norm\.": "norms after it has pooled",
    r"blocks\..*\.(q_norm|k_norm)\.": "norms queries and keys",
    r".*\.mlp\.(w12|w3|weights_in)\.": "has gated MLPs (SwiGLU)",
    r"blocks\..*\.attn\.(q_bias$|proj_l\.)": "is a BEiT or CaiT",
    r"patch_embed\.proj\.0\.": "has a convolutional stem",
}


def usual_form(
    names: Names, tensors: Tensors, image_size: ImageSize | None = None
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The tensors as ``names`` has them, and sentences on what was done.

    Args:
      names: of the format.
      tensors: of the encoder.
      image_size: that it is made for, where something tells; else a square.

    Raises:
      UserError: an encoder that this library has no module for.
    """
    for pattern, reason in _REFUSED.items():
        found = next((name for name in tensors if re.match(pattern, name)), None)
        if found:
            raise UserError(f"{found}: this encoder {reason}, which none of this library does.")
    if names is VIT:
        # timm's and DINOv2's ls1.gamma, gamma_1 in facebookresearch/deit, models_v2.py.
        vector = r"(blocks\.\d+)\.(?:ls|gamma_)([12])(?:\.gamma)?"
        usual = _with_position_of_class(_without_chunks(tensors), image_size)
        return _fold_layer_scale(usual, vector, ("attn.proj", "mlp.fc2"))
    if names is HUGGING_FACE_DINOV2:
        vector = r"(encoder\.layer\.\d+)\.layer_scale([12])\.lambda1"
        return _fold_layer_scale(tensors, vector, ("attention.output.dense", "mlp.fc2"))
    if names is BIG_VISION:
        return _modern_big_vision(tensors)
    return dict(tensors), []


def _without_chunks(tensors: Tensors) -> dict[str, np.ndarray]:
    """ "blocks.0.7.norm1.weight" is "blocks.7.norm1.weight"."""
    return {re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", n): x for n, x in tensors.items()}


def _with_position_of_class(tensors: Tensors, image_size: ImageSize | None) -> Tensors:
    """DeiT III's positions are of its patches alone (facebookresearch/deit, models_v2.py)."""
    positions, kernel = tensors.get("pos_embed"), tensors["patch_embed.proj.weight"]
    if positions is None or positions.ndim != 3 or "cls_token" not in tensors:
        return tensors
    patches = math.isqrt(positions.shape[1]) ** 2
    if isinstance(image_size, tuple):
        patches = math.prod(side // kernel.shape[-1] for side in image_size)
    if positions.shape[1] != patches:
        return tensors
    return {**tensors, "pos_embed": _after_none(positions)}


def _after_none(positions: np.ndarray) -> np.ndarray:
    """Positions [1, N, D] with one of zeros before them, the class token's."""
    return np.concatenate([np.zeros_like(positions[:, :1]), positions], axis=1)


def _fold_layer_scale(
    tensors: Tensors, vector: str, layers: tuple[str, str]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Multiplies the outputs of ``layers``, of attention and of MLP, by their vectors."""
    folded = dict(tensors)
    for name in tensors:
        scale = re.fullmatch(vector, name)
        if not scale:
            continue
        gamma = np.asarray(folded.pop(name), np.float32)
        layer = f"{scale[1]}.{layers[int(scale[2]) - 1]}"
        for leaf in (f"{layer}.weight", f"{layer}.bias"):
            if leaf in folded:
                value = np.asarray(folded[leaf], np.float32)
                folded[leaf] = gamma.reshape(-1, *(1,) * (value.ndim - 1)) * value
    count = len(tensors) - len(folded)
    said = [f"{count} vectors of LayerScale are folded into the projections before them."]
    return folded, said if count else []


def _modern_big_vision(tensors: Tensors) -> tuple[dict[str, np.ndarray], list[str]]:
    modern = {}
    for name, value in tensors.items():
        name = re.sub(r"^Transformer/(posembed_input/)?pos_embedding$", "pos_embedding", name)
        name = name.replace("/MultiHeadDotProductAttention_1/", "/MultiHeadDotProductAttention_0/")
        name = name.replace("/LayerNorm_2/", "/LayerNorm_1/").replace(
            "/MlpBlock_3/", "/MlpBlock_0/"
        )
        if name.startswith("Transformer/encoderblock/"):
            inner = name.removeprefix("Transformer/encoderblock/")
            modern |= {f"Transformer/encoderblock_{k}/{inner}": x for k, x in enumerate(value)}
        else:
            modern[name] = value
    if "cls" not in modern:
        raise UserError(
            "cls is missing: this encoder has no class token (it is pooled by the mean, or by "
            "attention), and every ViT of this library has one."
        )
    positions = modern.get("pos_embedding")
    if positions is not None and round(positions.shape[1] ** 0.5) ** 2 == positions.shape[1]:
        modern["pos_embedding"] = _after_none(positions)
    said = "big_vision's GELU is the one of tanh, ours the exact one: features differ a little."
    return modern, [said]
