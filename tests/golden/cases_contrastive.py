"""Settings of the recorded runs of MoBY, SimSiam, MoCo v2, BYOL and SimCLR. No torch.

Shared by the recording scripts and the tests, like ``cases``.
"""

from dataclasses import dataclass

import numpy as np
from golden import swin_weights
from golden.cases import (
    BATCH,
    TABLE_EPOCHS,
    TABLE_STEPS_PER_EPOCH,
    TABLE_WARMUP_EPOCHS,
    TRAINED_VIT,
    views,
)
from golden.swin_weights import SwinCase
from golden.weights import affine, normal, vit_shapes, weights

HIDDEN = 32  # of every head whose hidden width is not the encoder's
OUTPUT = 16
PREDICTOR_HIDDEN = 12  # SimSiam's
QUEUE = 8  # two batches: the third step writes over the keys of the first

# BYOL's and SimCLR's runs have a linear encoder on colours averaged over patches of so many pixels.
LINEAR_PATCH = 8
LINEAR_FEATURES = 3 * (TRAINED_VIT.image_size // LINEAR_PATCH) ** 2
LINEAR_WIDTH = 24

MOBY_TEMPERATURE = 0.2
# Biases whose gradient is zero in exact arithmetic, by their official names; so is the keys' in the
# fused bias of every attention. A bias of the keys adds the same to every logit of a query; the
# others shift what a BatchNorm centres again.
MOBY_UNDETERMINED = (
    "encoder.norm.bias",
    "projector.linear_hidden.1.bias",
    "projector.linear_out.bias",
    "predictor.linear_hidden.1.bias",
)
MOCO_V2_TEMPERATURE = 0.2
SIMCLR_TEMPERATURE = 0.1


@dataclass(frozen=True)
class Case:
    """One run; learning rates are those after the batch-size rule.

    Attributes:
      steps_per_epoch: official schedules go by step or by epoch; runs of one and of two steps an
        epoch tell the two clocks apart.
      peak: learning rate.
      warmup_epochs: of the learning rate.
      start: learning rate at which MoBY's warm-up starts.
      end: learning rate at the end, where a method has one.
      decay: of the weights.
      momentum: of the target network at step 0.
      clip: largest norm of the whole gradient, 0 for none.
      constant_predictor_rate: SimSiam's --fix-pred-lr.
    """

    steps_per_epoch: int
    peak: float
    warmup_epochs: int = 0
    epochs: int = 4
    start: float = 0.0
    end: float = 0.0
    decay: float = 0.0
    momentum: float = 0.0
    clip: float = 0.0
    constant_predictor_rate: bool = False


MOBY_CASES = {
    # The scheduler is stepped after the optimizer: steps 0 and 1 both have the first rate.
    "warmup": Case(
        steps_per_epoch=2,
        warmup_epochs=1,
        peak=2e-3,
        start=1e-3,
        end=1e-4,
        decay=0.1,
        momentum=0.9,
        clip=0.5,
    ),
    "cosine": Case(steps_per_epoch=1, peak=5e-4, end=5e-5, decay=0.1, momentum=0.9, clip=50.0),
}
# The numbers of the second case on Swin: maps of 8 in windows of 4, which shift, then of 4.
MOBY_SWIN_CASE = MOBY_CASES["cosine"]
MOBY_SWIN = SwinCase("transformer_ssl", TRAINED_VIT.image_size, (32, 32), window=4)
MOBY_SWIN_DEPTHS, MOBY_SWIN_HEADS = (2, 1), (1, 2)
# The table of the whole schedule.
MOBY_TABLE = Case(
    steps_per_epoch=TABLE_STEPS_PER_EPOCH,
    epochs=TABLE_EPOCHS,
    warmup_epochs=TABLE_WARMUP_EPOCHS,
    peak=1e-3,
    start=1e-5,
    end=1e-4,
    momentum=0.99,
)
SIMSIAM_CASES = {
    "constant": Case(steps_per_epoch=1, peak=0.01, decay=0.1, constant_predictor_rate=True),
    "cosine": Case(steps_per_epoch=2, peak=0.01, decay=0.1),
}
MOCO_V2_CASES = {
    "one": Case(steps_per_epoch=1, peak=0.1, decay=0.01, momentum=0.9),
    "two": Case(steps_per_epoch=2, peak=0.1, decay=0.01, momentum=0.99),
}
# LARS makes steps of a thousandth of a kernel's norm, times the learning rate.
BYOL_CASES = {
    "warmup": Case(steps_per_epoch=2, warmup_epochs=1, peak=2.0, decay=0.1, momentum=0.9),
    "cosine": Case(steps_per_epoch=1, peak=2.0, decay=0.1, momentum=0.99),
}
SIMCLR_CASES = {
    "warmup": Case(steps_per_epoch=2, warmup_epochs=1, peak=0.5, decay=0.1),
    "cosine": Case(steps_per_epoch=1, peak=0.5, decay=0.1),
}
# Of BYOL and SimCLR.
WARMUP_TABLE = Case(
    steps_per_epoch=TABLE_STEPS_PER_EPOCH,
    epochs=TABLE_EPOCHS,
    warmup_epochs=TABLE_WARMUP_EPOCHS,
    peak=2.0,
    momentum=0.99,
)


def global_views(method: str, step: int) -> dict[str, np.ndarray]:
    """uint8 crops of a step: "global" [B, 2, S, S, 3]."""
    return {"global": views(f"{method}/{step}", 2, TRAINED_VIT.image_size)}


def queue(name: str) -> np.ndarray:
    """Keys at step 0, rows of unit length: float32 [QUEUE, OUTPUT]."""
    keys = normal(f"queue/{name}", (QUEUE, OUTPUT))
    return keys / np.linalg.norm(keys, axis=1, keepdims=True)


def features(name: str, rows: int = 2 * BATCH) -> np.ndarray:
    """Random float32 features [rows, OUTPUT] for a loss, not normalised."""
    return normal(f"loss/{name}", (rows, OUTPUT))


def moby_weights() -> dict[str, np.ndarray]:
    """Initial weights of the encoder (bare names), "projector." and "predictor."."""
    return weights(
        vit_shapes(TRAINED_VIT, learned_positions=True) | moby_head_shapes(TRAINED_VIT.width)
    )


def moby_swin_weights() -> dict[str, np.ndarray]:
    """The same with a Swin."""
    encoder = swin_weights.shapes(MOBY_SWIN, MOBY_SWIN_DEPTHS, MOBY_SWIN_HEADS)
    return weights({**encoder, **moby_head_shapes(2 * swin_weights.WIDTH)})


def moby_head_shapes(width: int) -> dict[str, tuple[int, ...]]:
    """Of "projector." and "predictor." on an encoder of this width."""
    shapes = {}
    for name, fan_in in (("projector", width), ("predictor", OUTPUT)):
        shapes |= affine(f"{name}.linear_hidden.1", HIDDEN, fan_in)
        shapes |= affine(f"{name}.linear_hidden.2", HIDDEN)
        shapes |= affine(f"{name}.linear_out", OUTPUT, HIDDEN)
    return shapes


def simsiam_weights() -> dict[str, np.ndarray]:
    """Initial weights of the encoder, its projector "fc." and "predictor.".

    The frozen bias before the last BatchNorm is left out: it is zero, and changes nothing.
    """
    width = TRAINED_VIT.width
    shapes = vit_shapes(TRAINED_VIT, learned_positions=True)
    for k in (0, 3):
        shapes |= {f"fc.{k}.weight": (width, width)} | affine(f"fc.{k + 1}", width)
    shapes["fc.6.weight"] = (OUTPUT, width)
    shapes |= {"predictor.0.weight": (PREDICTOR_HIDDEN, OUTPUT)}
    shapes |= affine("predictor.1", PREDICTOR_HIDDEN)
    shapes |= affine("predictor.3", OUTPUT, PREDICTOR_HIDDEN)
    return weights(shapes)


def moco_v2_weights() -> dict[str, np.ndarray]:
    """Initial weights of the encoder and its projector "fc."."""
    width = TRAINED_VIT.width
    shapes = vit_shapes(TRAINED_VIT, learned_positions=True)
    return weights(shapes | affine("fc.0", width, width) | affine("fc.2", OUTPUT, width))


def linear_encoder_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the linear encoder."""
    return affine("encoder", LINEAR_WIDTH, LINEAR_FEATURES)


def byol_weights() -> dict[str, np.ndarray]:
    """Initial weights of "encoder.", "projector." and "predictor.", layouts as in torch.

    Heads: ``linear``, ``batch_norm``, ``linear_1`` as Haiku numbers them.
    """
    shapes = linear_encoder_shapes()
    for name, fan_in in (("projector", LINEAR_WIDTH), ("predictor", OUTPUT)):
        shapes |= affine(f"{name}.linear", HIDDEN, fan_in) | affine(f"{name}.batch_norm", HIDDEN)
        shapes[f"{name}.linear_1.weight"] = (OUTPUT, HIDDEN)
    return weights(shapes)


def simclr_weights() -> dict[str, np.ndarray]:
    """Initial weights of "encoder." and "projector.", layouts as in torch.

    Projector: ``dense_k``, ``norm_k``; the last norm has no bias.
    """
    shapes = linear_encoder_shapes()
    for k in range(3):
        features = OUTPUT if k == 2 else LINEAR_WIDTH
        shapes[f"projector.dense_{k}.weight"] = (features, LINEAR_WIDTH)
        shapes |= affine(f"projector.norm_{k}", features)
    del shapes["projector.norm_2.bias"]
    return weights(shapes)
