"""The settings of the recorded runs, shared by the recording scripts and the tests. No torch."""

from dataclasses import dataclass

import numpy as np
from golden.weights import (
    ViTShape,
    batch_norm_mlp_shapes,
    dino_head_shapes,
    images,
    normal,
    vit_shapes,
    weights,
)

FORWARD_VIT = ViTShape(image_size=32, patch_size=4, width=48, depth=3, heads=3)
TRAINED_VIT = ViTShape(image_size=32, patch_size=4, width=24, depth=2, heads=3)
CONV_VIT = ViTShape(image_size=32, patch_size=16, width=24, depth=2, heads=3)
# Tokens kept of the sin-cos positions of ViT-S/16 at 224: the class, corners, and some between.
SINCOS_ROWS = (0, 1, 2, 14, 15, 30, 100, 183, 196)

BATCH = 4
STEPS = 3
LOCAL_CROPS = 3
LOCAL_SIZE = 16
DINO_LOSS_CROPS = 10
DINO_LOSS_TEMPERATURES = (0.04, 0.07)
DINO_HEAD = {"hidden": 32, "bottleneck": 16, "prototypes": 64}
MOCO_V3_HIDDEN = 32
MOCO_V3_OUTPUT = 16
MOCO_V3_TEMPERATURE = 0.2

# The tables of whole schedules.
TABLE_EPOCHS = 5
TABLE_STEPS_PER_EPOCH = 7
TABLE_WARMUP_EPOCHS = 2  # of DINO; MoCo v3 has those of its case


@dataclass(frozen=True)
class DINOCase:
    """One run of DINO; ``peak`` is the learning rate after the batch-size rule.

    The official schedules are by step, the teacher's temperature and the frozen last layer by
    epoch, so runs of one and of two steps an epoch tell the two clocks apart.
    """

    norm_last_layer: bool
    clip: float
    steps_per_epoch: int
    warmup_epochs: int
    freeze_last_layer: int
    epochs: int = 4
    peak: float = 5e-3
    end: float = 1e-4
    decay: float = 0.04
    decay_end: float = 0.4
    momentum: float = 0.9
    batch_norm: bool = False  # use_bn_in_head
    teacher_temperature_start: float = 0.04
    teacher_temperature: float = 0.07
    teacher_temperature_epochs: int = 3


# In the first case only step 0 is frozen, and it does move everything but the last layer. In the
# second steps 0 and 1 are, and the official warm-up gives step 0 the learning rate zero.
DINO_CASES = {
    "clip_0.3": DINOCase(
        norm_last_layer=False, clip=0.3, steps_per_epoch=1, warmup_epochs=0, freeze_last_layer=1
    ),
    "clip_3": DINOCase(
        norm_last_layer=True, clip=3.0, steps_per_epoch=2, warmup_epochs=1, freeze_last_layer=1
    ),
}

# Options that the recipes leave alone, recorded apart.
DINO_OPTION_CASES = {
    "batch_norm": DINOCase(
        norm_last_layer=True,
        clip=0.3,
        steps_per_epoch=1,
        warmup_epochs=0,
        freeze_last_layer=1,
        batch_norm=True,
    ),
}


@dataclass(frozen=True)
class MoCoV3Case:
    """One run of MoCo v3; ``peak`` is the learning rate after the batch-size rule."""

    warmup_epochs: int
    steps_per_epoch: int
    epochs: int = 4
    peak: float = 2e-3
    decay: float = 0.1
    momentum: float = 0.9
    cosine_momentum: bool = True  # moco_m_cos
    conv_stem: bool = False  # as in vit_conv_small

    @property
    def vit(self) -> ViTShape:
        """Its encoder."""
        return CONV_VIT if self.conv_stem else TRAINED_VIT


MOCO_V3_CASES = {
    "warmup": MoCoV3Case(warmup_epochs=1, steps_per_epoch=2),
    "cosine": MoCoV3Case(warmup_epochs=0, steps_per_epoch=1),
}
MOCO_V3_OPTION_CASES = {
    "constant_momentum": MoCoV3Case(warmup_epochs=0, steps_per_epoch=1, cosine_momentum=False),
    # Warmed up: Adam's first whole step has the sign of a gradient, and some lie near zero here.
    "conv_stem": MoCoV3Case(warmup_epochs=1, steps_per_epoch=2, peak=5e-4, conv_stem=True),
}


def dino_weights(case: DINOCase) -> dict[str, np.ndarray]:
    """Initial weights of student and teacher, under torch's names without wrapper prefixes.

    A frozen gain of the last layer is 1, as the official head leaves it.
    """
    shapes = vit_shapes(TRAINED_VIT, learned_positions=True)
    head = dino_head_shapes(TRAINED_VIT.width, batch_norm=case.batch_norm, **DINO_HEAD)
    values = weights(shapes | head)
    if case.norm_last_layer:
        values["head.last_layer.weight_g"] = np.ones_like(values["head.last_layer.weight_g"])
    return values


def dino_views(step: int) -> dict[str, np.ndarray]:
    """uint8 crops of a step: "global" [B, 2, S, S, 3] and "local" [B, n, s, s, 3]."""
    return {
        "global": views(f"dino/{step}/global", 2, TRAINED_VIT.image_size),
        "local": views(f"dino/{step}/local", LOCAL_CROPS, LOCAL_SIZE),
    }


def moco_v3_weights(case: MoCoV3Case) -> dict[str, np.ndarray]:
    """Initial trainable weights of encoder and projector ("head."), and of the predictor."""
    sizes = {"hidden": MOCO_V3_HIDDEN, "output": MOCO_V3_OUTPUT}
    return weights(
        vit_shapes(case.vit, learned_positions=False, conv_stem=case.conv_stem)
        | batch_norm_mlp_shapes("head", case.vit.width, layers=3, **sizes)
        | batch_norm_mlp_shapes("predictor", MOCO_V3_OUTPUT, layers=2, **sizes)
    )


def moco_v3_views(step: int) -> dict[str, np.ndarray]:
    """uint8 crops of a step: "global" [B, 2, S, S, 3]."""
    return {"global": views(f"moco_v3/{step}", 2, TRAINED_VIT.image_size)}


def views(name: str, count: int, size: int) -> np.ndarray:
    """uint8 [B, count, size, size, 3]."""
    return images(name, BATCH * count, size).reshape(BATCH, count, size, size, 3)


def dino_logits(call: int) -> dict[str, np.ndarray]:
    """Random logits for DINO's loss: "student" [V, B, K] and "teacher" [2, B, K]."""
    return {
        "student": normal(f"dino/loss/{call}/student", (DINO_LOSS_CROPS, BATCH, 32)),
        "teacher": normal(f"dino/loss/{call}/teacher", (2, BATCH, 32), scale=0.3),
    }


def moco_v3_features() -> dict[str, np.ndarray]:
    """Random features for MoCo v3's loss: "queries" and "keys" [B, D], not normalised."""
    shape = (2 * BATCH, MOCO_V3_OUTPUT)
    return {name: normal(f"moco_v3/loss/{name}", shape) for name in ("queries", "keys")}
