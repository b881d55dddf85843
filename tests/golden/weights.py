"""Weights and inputs that torch and JAX both generate from names, so that none is stored.

Every array is a function of its name alone: the CRC-32 of the name seeds numpy's generator. Names
and layouts are torch's (the official state dicts); ``from_torch_names`` turns them into our trees.
The recording scripts load these arrays into the official models, the tests into ours. No torch.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Shapes = Mapping[str, tuple[int, ...]]

IMAGENET_MEAN = np.float32([0.485, 0.456, 0.406])
IMAGENET_STD = np.float32([0.229, 0.224, 0.225])


def generator(name: str) -> np.random.Generator:
    """The generator that belongs to ``name``."""
    return np.random.default_rng(zlib.crc32(name.encode()))


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 initial value of the torch parameter ``name``.

    Kernels are normal over the square root of their fan-in, which keeps activations near one;
    tokens and positions are 0.2 normal, biases 0.1 normal, the scales of norms and the gains of
    weight normalisation 1 + 0.1 normal.
    """
    normal = generator(name).normal(size=shape)
    if name.endswith("bias"):
        value = 0.1 * normal
    elif len(shape) == 1 or name.endswith("weight_g"):
        value = 1 + 0.1 * normal
    elif name in ("cls_token", "pos_embed"):
        value = 0.2 * normal
    else:
        value = normal / np.sqrt(np.prod(shape[1:]))
    return value.astype(np.float32)


def weights(shapes: Shapes) -> dict[str, np.ndarray]:
    """``weight`` of every name."""
    return {name: weight(name, shape) for name, shape in shapes.items()}


@dataclass(frozen=True)
class ViTShape:
    """The numbers that fix a ViT; D is divisible by the heads, the image by the patch."""

    image_size: int
    patch_size: int
    width: int
    depth: int
    heads: int

    @property
    def tokens(self) -> int:
        """Patches of an image."""
        return (self.image_size // self.patch_size) ** 2


def vit_shapes(
    vit: ViTShape, *, learned_positions: bool, conv_stem: bool = False
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an official ViT's state dict, without any head."""
    width = vit.width
    shapes = {"cls_token": (1, 1, width)}
    if learned_positions:
        shapes["pos_embed"] = (1, 1 + vit.tokens, width)
    if conv_stem:
        shapes |= conv_stem_shapes(width)
    else:
        shapes |= affine("patch_embed.proj", width, 3, vit.patch_size, vit.patch_size)
    for k in range(vit.depth):
        shapes |= affine(f"blocks.{k}.norm1", width)
        shapes |= affine(f"blocks.{k}.attn.qkv", 3 * width, width)
        shapes |= affine(f"blocks.{k}.attn.proj", width, width)
        shapes |= affine(f"blocks.{k}.norm2", width)
        shapes |= affine(f"blocks.{k}.mlp.fc1", 4 * width, width)
        shapes |= affine(f"blocks.{k}.mlp.fc2", width, 4 * width)
    return shapes | affine("norm", width)


def conv_stem_shapes(width: int) -> dict[str, tuple[int, ...]]:
    """Trainable names and shapes of MoCo v3's ConvStem: convolution, BatchNorm, ReLU by threes."""
    shapes, colours = {}, 3
    for k in range(4):
        channels = width // 2 ** (3 - k)
        shapes[f"patch_embed.proj.{3 * k}.weight"] = (channels, colours, 3, 3)
        shapes |= affine(f"patch_embed.proj.{3 * k + 1}", channels)
        colours = channels
    return shapes | affine("patch_embed.proj.12", width, width, 1, 1)


def dino_head_shapes(
    width: int, *, hidden: int, bottleneck: int, prototypes: int, batch_norm: bool = False
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the official three-layer DINOHead, prefixed as in the wrapped model."""
    apart = 3 if batch_norm else 2  # Linear, perhaps BatchNorm, GELU
    norms = affine("head.mlp.1", hidden) | affine("head.mlp.4", hidden) if batch_norm else {}
    return (
        affine("head.mlp.0", hidden, width)
        | affine(f"head.mlp.{apart}", hidden, hidden)
        | affine(f"head.mlp.{2 * apart}", bottleneck, hidden)
        | norms
        | {
            "head.last_layer.weight_g": (prototypes, 1),
            "head.last_layer.weight_v": (prototypes, bottleneck),
        }
    )


def batch_norm_mlp_shapes(
    prefix: str, width: int, *, layers: int, hidden: int, output: int
) -> dict[str, tuple[int, ...]]:
    """Trainable names and shapes of MoCo v3's MLPs: Linear, BatchNorm, ReLU, three indices each."""
    shapes = {}
    for k in range(layers):
        last = k == layers - 1
        fan_in = width if k == 0 else hidden
        shapes[f"{prefix}.{3 * k}.weight"] = (output if last else hidden, fan_in)
        if not last:
            shapes |= affine(f"{prefix}.{3 * k + 1}", hidden)
    return shapes


def faint(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A ViT's weights, its residual stream a hundred times weaker: norms show their epsilon.

    At variances near one the epsilons in use, 1e-5 and 1e-6, could not be told apart.
    """
    sources = ("cls_token", "pos_embed", "patch_embed.", "attn.proj.", "mlp.fc2.")
    return {
        name: value * np.float32(0.01 if any(s in name for s in sources) else 1)
        for name, value in state.items()
    }


def affine(prefix: str, *weight_shape: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a layer's weight and of its bias."""
    return {f"{prefix}.weight": weight_shape, f"{prefix}.bias": weight_shape[:1]}


def images(name: str, count: int, size: int) -> np.ndarray:
    """uint8 [count, size, size, 3]: random colours on a 4 x 4 grid plus pixel noise."""
    random = generator(name)
    coarse = random.integers(30, 226, (count, 4, 4, 3))
    noise = random.integers(-30, 30, (count, size, size, 3))
    colours = coarse.repeat(-(-size // 4), axis=1).repeat(-(-size // 4), axis=2)
    return (colours[:, :size, :size] + noise).astype(np.uint8)


def normalised(pixels: np.ndarray) -> np.ndarray:
    """uint8 [..., 3] -> float32, scaled to [0, 1], then ImageNet mean and deviation."""
    return (np.float32(pixels) / 255 - IMAGENET_MEAN) / IMAGENET_STD


def normal(name: str, shape: tuple[int, ...], scale: float = 1.0) -> np.ndarray:
    """float32 normal values, for the losses on random logits."""
    return (scale * generator(name).normal(size=shape)).astype(np.float32)
