"""Inputs and numbers of the recorded fine-tuning, shared by recording and tests. No torch."""

from dataclasses import dataclass

import numpy as np
from golden.weights import ViTShape, affine, generator, images, normal, normalised, vit_shapes

MIX_SEEDS = (0, 1, 2, 6, 11, 12)  # of timm's draws: both kinds
MIX_BATCH = 4
# The last two have draws that do not fit.
ERASED_SIZES = ((32, 32), (224, 224), (24, 40), (8, 64), (64, 6))
LEVELS = (-0.9, -0.3, 0.55, 1.0)

MAE_VIT = ViTShape(image_size=32, patch_size=8, width=48, depth=3, heads=3)


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


def mae_batch(step: int) -> tuple[np.ndarray, np.ndarray]:
    """Normalised images and labels of a step."""
    size, count = MAE_VIT.image_size, MAE_RUN.batch
    labels = generator(f"finetune/labels/{step}").integers(0, MAE_RUN.classes, count)
    return normalised(images(f"finetune/{step}", count, size)), labels


def mae_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of MAE's fine-tuned ViT with global pooling, which has no final norm."""
    width = MAE_VIT.width
    shapes = vit_shapes(MAE_VIT, learned_positions=True)
    shapes = {name: shape for name, shape in shapes.items() if not name.startswith("norm.")}
    return shapes | affine("fc_norm", width) | affine("head", MAE_RUN.classes, width)


def rand_augment_image() -> np.ndarray:
    """uint8 [20, 24, 3]."""
    return np.ascontiguousarray(images("rand_augment", 1, 24)[0, :20])
