"""Weights, cases and names of Swin's recorded outputs, shared by recording and tests. No torch.

Names and layouts are those of Transformer-SSL's state dict, which EsViT shares.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from golden.weights import Shapes, generator, normalised, weights


@dataclass(frozen=True)
class SwinCase:
    """A network and the images it is run on.

    Attributes:
      source: the package whose output is recorded.
      built: side in pixels of the images that the network is made for.
      image: (height, width) of those it sees.
      window: side of the windows asked for.
      norm_epsilon: of every norm.
      scale: of the activations; small ones show the epsilon.
    """

    source: str
    built: int
    image: tuple[int, int]
    window: int
    norm_epsilon: float = 1e-5
    scale: float = 1.0


WIDTH = 8
DEPTHS = (2, 2, 4, 2)
HEADS = (1, 2, 4, 4)
BATCH = 2

# Grids of the four stages after each.
CASES = {
    # 24, 12, 6, 3: whole windows; the last stage is one window and does not shift.
    "transformer_ssl": SwinCase("transformer_ssl", 96, (96, 96), window=3),
    "transformer_ssl_faint": SwinCase("transformer_ssl", 64, (64, 64), window=4, scale=0.01),
    # 8, 4, 2, 1 where it is made for them: windows shrink to 4, 4, 2, 1.
    "transformer_ssl_small": SwinCase("transformer_ssl", 32, (32, 32), window=4),
    # The published form, 56, 28, 14, 7 in windows of 7.
    "transformer_ssl_224": SwinCase("transformer_ssl", 224, (224, 224), window=7),
    "timm_224": SwinCase("timm", 224, (224, 224), window=7),
    "hugging_face_224": SwinCase("hugging_face", 224, (224, 224), window=7),
    "timm": SwinCase("timm", 128, (128, 128), window=4),
    # Crops, through windows of 7 made for 56, 28, 14, 7: maps of 24, 12, 6, 3.
    "esvit_crop": SwinCase("esvit", 224, (96, 96), window=7, norm_epsilon=1e-6),
    # 9, 5, 3, 2, through windows of 3 made for 24, 12, 6, 3: odd mergings, maps below the window.
    "esvit_odd": SwinCase("esvit", 96, (36, 36), window=3, norm_epsilon=1e-6),
    # Larger than made for: 26, 13, 7, 4; the last stage still does not shift.
    "esvit_larger": SwinCase("esvit", 96, (104, 104), window=3, norm_epsilon=1e-6),
    # 19 x 21, 10 x 11, 5 x 6, 3 x 3: no square, no whole patches.
    "hugging_face": SwinCase("hugging_face", 75, (75, 82), window=2),
}


# Of all others the gradient flows on into these.
GRADIENT_CASE = "transformer_ssl"
GRADIENT_PREFIXES = ("patch_embed.", "layers.0.", "layers.1.blocks.1.")


def stored_stages(case: SwinCase) -> tuple[int, ...]:
    """Stages whose maps are recorded: of large images, the last one's."""
    return (3,) if case.image[0] == 224 else (0, 1, 2, 3)


def gradient_direction() -> np.ndarray:
    """float32 [B, 8C]: the recorded gradient is that of the pooled features' product with it."""
    return generator("swin/direction").normal(size=(BATCH, 8 * WIDTH)).astype(np.float32)


def state_of(case: SwinCase) -> dict[str, np.ndarray]:
    """The network's weights under the official names."""
    values = weights(shapes(case))
    sources = ("patch_embed.norm.", "attn.proj.", "mlp.fc2.", "reduction.")
    return {
        name: value * np.float32(case.scale if any(s in name for s in sources) else 1)
        for name, value in values.items()
    }


def view(case: SwinCase) -> np.ndarray:
    """float32 [B, H, W, 3] normalised."""
    height, width = case.image
    pixels = generator(f"swin/{height}x{width}").integers(0, 256, (BATCH, height, width, 3))
    return normalised(pixels)


def shapes(
    case: SwinCase, depths: Sequence[int] = DEPTHS, heads_of_stages: Sequence[int] = HEADS
) -> Shapes:
    """Names and shapes of the state dict, without head; windows are at most the stage's map."""
    found = _affine("patch_embed.proj", WIDTH, 3, 4, 4) | _affine("patch_embed.norm", WIDTH)
    for stage, (depth, heads) in enumerate(zip(depths, heads_of_stages, strict=True)):
        width = WIDTH * 2**stage
        window = min(case.window, -(-case.built // 2 ** (2 + stage)))
        for i in range(depth):
            block = f"layers.{stage}.blocks.{i}"
            table = f"{block}.attn.relative_position_bias_table"
            found[table] = ((2 * window - 1) ** 2, heads)
            found |= _affine(f"{block}.norm1", width) | _affine(f"{block}.norm2", width)
            found |= _affine(f"{block}.attn.qkv", 3 * width, width)
            found |= _affine(f"{block}.attn.proj", width, width)
            found |= _affine(f"{block}.mlp.fc1", 4 * width, width)
            found |= _affine(f"{block}.mlp.fc2", width, 4 * width)
        if stage + 1 < len(depths):
            merging = f"layers.{stage}.downsample"
            found |= _affine(f"{merging}.norm", 4 * width)
            found[f"{merging}.reduction.weight"] = (2 * width, 4 * width)
    return found | _affine("norm", width)


def params_of(state: Mapping[str, np.ndarray], depths: Sequence[int] = DEPTHS) -> dict:
    """The parameters of our encoder; blocks are counted over the whole network."""
    tree = {
        "patch_embed": {
            "kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
            "bias": state["patch_embed.proj.bias"],
        },
        "patch_norm": _norm(state, "patch_embed.norm"),
        "norm": _norm(state, "norm"),
    }
    k = 0
    for stage, depth in enumerate(depths):
        for i in range(depth):
            tree[f"block_{k}"] = _block(state, f"layers.{stage}.blocks.{i}")
            k += 1
        if stage + 1 < len(depths):
            merging = f"layers.{stage}.downsample"
            tree[f"merging_{stage + 1}"] = {
                "norm": _norm(state, f"{merging}.norm"),
                "reduction": {"kernel": state[f"{merging}.reduction.weight"].T},
            }
    return tree


def _block(state: Mapping[str, np.ndarray], prefix: str) -> dict:
    return {
        "norm_1": _norm(state, f"{prefix}.norm1"),
        "norm_2": _norm(state, f"{prefix}.norm2"),
        "attention": {
            "qkv": _dense(state, f"{prefix}.attn.qkv"),
            "out": _dense(state, f"{prefix}.attn.proj"),
            "relative_position_bias": state[f"{prefix}.attn.relative_position_bias_table"],
        },
        "mlp": {
            "up": _dense(state, f"{prefix}.mlp.fc1"),
            "down": _dense(state, f"{prefix}.mlp.fc2"),
        },
    }


def _affine(prefix: str, *weight_shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}.weight": weight_shape, f"{prefix}.bias": weight_shape[:1]}


def _dense(state: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {"kernel": state[f"{prefix}.weight"].T, "bias": state[f"{prefix}.bias"]}


def _norm(state: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {"scale": state[f"{prefix}.weight"], "bias": state[f"{prefix}.bias"]}
