"""Inputs and numbers of the recorded fine-tuning, shared by recording and tests. No torch."""

from dataclasses import dataclass

import numpy as np
from golden.weights import (
    ViTShape,
    affine,
    generator,
    images,
    normal,
    normalised,
    vit_shapes,
    weight,
    weights,
)

MIX_SEEDS = (0, 1, 2, 6, 11, 12)  # of timm's draws: both kinds
MIX_BATCH = 4
# The last two have draws that do not fit.
ERASED_SIZES = ((32, 32), (224, 224), (24, 40), (8, 64), (64, 6))
LEVELS = (-0.9, -0.3, 0.55, 1.0)

MAE_VIT = ViTShape(image_size=32, patch_size=8, width=48, depth=3, heads=3)
# 6 x 6 patches: offsets of 4 and 5 share a bucket, those of 2 and 3, too.
LOMAR_VIT = ViTShape(image_size=48, patch_size=8, width=48, depth=2, heads=3)
LOMAR_BUCKETS = 50
LOMAR_GRID = (5, 9)  # of the recorded table of buckets


@dataclass(frozen=True)
class MAERun:
    """Numbers of the three recorded steps; the third one lies behind the warm-up."""

    classes: int = 5
    batch: int = 8
    layer_decay: float = 0.65
    learning_rate: float = 1e-3
    warmup_epochs: float = 1.0
    epochs: int = 5
    steps_per_epoch: int = 2


MAE_RUN = MAERun()
POSITION_SIDES = (3, 4, 6)  # resized from 4


@dataclass(frozen=True)
class DeiTTable:
    """Numbers of the recorded learning rates."""

    peak: float = 1e-3
    start: float = 1e-6
    end: float = 1e-5
    warmup_epochs: int = 3
    epochs: int = 9
    steps_per_epoch: int = 4


DEIT_TABLE = DeiTTable()


def mix_batch() -> tuple[np.ndarray, np.ndarray, int]:
    """Images [4, 12, 14, 3], labels and the number of classes."""
    return normal("mix/images", (MIX_BATCH, 12, 14, 3)), np.array([2, 0, 1, 2]), 3


def finetune_batch(step: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Normalised images of ``size`` pixels and labels of a step."""
    count = MAE_RUN.batch
    labels = generator(f"finetune/labels/{step}").integers(0, MAE_RUN.classes, count)
    return normalised(images(f"finetune/{step}", count, size)), labels


def finetuned_shapes(
    vit: ViTShape, learned_positions: bool, norm: str = "fc_norm"
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of MAE's fine-tuned ViT, whose one norm behind the blocks is ``norm``.

    It is "fc_norm" with global pooling and "norm" on the class token.
    """
    shapes = vit_shapes(vit, learned_positions=learned_positions)
    shapes = {name: shape for name, shape in shapes.items() if not name.startswith("norm.")}
    return shapes | affine(norm, vit.width) | affine("head", MAE_RUN.classes, vit.width)


def mae_weights() -> dict[str, np.ndarray]:
    """MAE's fine-tuned ViT with global pooling."""
    return weights(finetuned_shapes(MAE_VIT, True))


def lomar_weights(norm: str = "fc_norm") -> dict[str, np.ndarray]:
    """LoMaR's fine-tuned ViT: tables of relative positions that move the logits by about one."""
    state = weights(finetuned_shapes(LOMAR_VIT, False, norm))
    shape = (1, LOMAR_VIT.width // LOMAR_VIT.heads, LOMAR_BUCKETS)
    for k in range(LOMAR_VIT.depth):
        name = f"blocks.{k}.attn.rpe_k.lookup_table_weight"
        state[name] = np.float32(8) * weight(name, shape)
    return state


def rand_augment_image() -> np.ndarray:
    """uint8 [20, 24, 3]."""
    return np.ascontiguousarray(images("rand_augment", 1, 24)[0, :20])
