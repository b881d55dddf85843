"""Inputs and numbers of the recorded pre-training of MAE and LoMaR, for recording and tests.

Everything is a function of its name alone, as in ``weights``. No torch.
"""

from dataclasses import dataclass

import numpy as np
from golden.weights import ViTShape, affine, generator, images, vit_shapes, weight, weights

STEPS = 3

# 64 patches, 16 of which the encoder sees.
MAE_VIT = ViTShape(image_size=32, patch_size=4, width=32, depth=2, heads=2)
MAE_DECODER = ViTShape(image_size=32, patch_size=4, width=16, depth=2, heads=2)
MAE_MASK_RATIO = 0.75
SINCOS = {"width": 16, "side": 3}  # of the recorded table of positions

# 10 x 10 patches: windows of 7 x 7 have four tops and four lefts; 39 of 49 patches are masked.
LOMAR_VIT = ViTShape(image_size=20, patch_size=2, width=32, depth=2, heads=2)
LOMAR_BUCKETS = 50
LOMAR_WINDOW = 7
LOMAR_WINDOWS = 4
LOMAR_MASK_RATIO = 0.8

# Near ImageNet's mean colour: the variance of such a patch is near the epsilon of its norm.
FAINT_COLOUR = (124, 116, 104)


@dataclass(frozen=True)
class MaskedRun:
    """Numbers of the recorded steps; ``peak`` is the learning rate after the batch-size rule.

    The first step has the learning rate zero, as in the official runs, and moves only the moments.
    """

    batch: int
    steps_per_epoch: int
    warmup_epochs: int
    epochs: int = 4
    peak: float = 2e-3
    end: float = 0.0
    decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)


# Steps at epochs 0, 0.5 and 1, the last one at the peak.
MAE_RUN = MaskedRun(batch=4, steps_per_epoch=2, warmup_epochs=1)
# Steps at epochs 0, 1 and 2, the last one on the cosine. Batch and number of windows share the
# factor 2, so that how the released code pairs images with windows can be seen.
LOMAR_RUN = MaskedRun(batch=6, steps_per_epoch=1, warmup_epochs=1)
# The table of a whole schedule.
TABLE_RUN = MaskedRun(batch=1, steps_per_epoch=7, warmup_epochs=2, epochs=5, peak=1.5e-4, end=1e-6)


def mae_weights() -> dict[str, np.ndarray]:
    """Initial values of everything that MAE trains, under the official names."""
    decoder = {
        name.replace("blocks.", "decoder_blocks.").replace("norm.", "decoder_norm."): shape
        for name, shape in vit_shapes(MAE_DECODER, learned_positions=False).items()
        if name.startswith(("blocks.", "norm."))
    }
    width = MAE_DECODER.width
    return weights(
        vit_shapes(MAE_VIT, learned_positions=False)
        | {"mask_token": (1, 1, width)}
        | affine("decoder_embed", width, MAE_VIT.width)
        | decoder
        | affine("decoder_pred", 3 * MAE_VIT.patch_size**2, width)
    )


def lomar_weights() -> dict[str, np.ndarray]:
    """Initial values of everything that LoMaR trains, under the official names.

    Tables of relative positions move the logits by about one.
    """
    vit = LOMAR_VIT
    state = weights(
        vit_shapes(vit, learned_positions=False)
        | {"mask_token": (1, 1, vit.width)}
        | affine("encoder_pred", 3 * vit.patch_size**2, vit.width)
    )
    for k in range(vit.depth):
        name = f"blocks.{k}.attn.rpe_k.lookup_table_weight"
        shape = (1, vit.width // vit.heads, LOMAR_BUCKETS)
        state[name] = np.float32(8) * weight(name, shape)
    return state


def mae_images(step: int) -> np.ndarray:
    """uint8 [B, 32, 32, 3]; the models take ``weights.normalised`` of them."""
    return with_faint_patch(images(f"mae/{step}", MAE_RUN.batch, MAE_VIT.image_size), MAE_VIT)


def mae_noise(step: int) -> np.ndarray:
    """float32 [B, 64] in [0, 1): the patches of least noise are kept."""
    return generator(f"mae/{step}/noise").random((MAE_RUN.batch, MAE_VIT.tokens), np.float32)


def lomar_images(step: int) -> np.ndarray:
    """uint8 [B, 20, 20, 3]; the models take ``weights.normalised`` of them."""
    pixels = images(f"lomar/{step}", LOMAR_RUN.batch, LOMAR_VIT.image_size)
    return with_faint_patch(pixels, LOMAR_VIT)


def lomar_corners(step: int) -> tuple[np.ndarray, np.ndarray]:
    """(tops, lefts) of the step's windows in patches, int64 [4] each, without repetitions."""
    places = LOMAR_VIT.image_size // LOMAR_VIT.patch_size - LOMAR_WINDOW + 1
    random = generator(f"lomar/{step}/windows")
    tops, lefts = random.permutation(places), random.permutation(places)
    return tops[:LOMAR_WINDOWS], lefts[:LOMAR_WINDOWS]


def lomar_noise(step: int) -> np.ndarray:
    """float32 [B, 4, 49] in [0, 1), as the official code draws it: least noise is masked.

    Row r of its rows has the noise ``reshape(-1, 49)[r]``, whatever image and window that row has.
    """
    shape = (LOMAR_RUN.batch, LOMAR_WINDOWS, LOMAR_WINDOW**2)
    return generator(f"lomar/{step}/noise").random(shape, np.float32)


def with_faint_patch(pixels: np.ndarray, vit: ViTShape) -> np.ndarray:
    """A copy, in whose first image one patch near the middle is nearly flat and grey."""
    side = vit.patch_size
    start = vit.image_size // 2
    noise = generator("faint").integers(0, 2, (side, side, 3))
    pixels = pixels.copy()
    pixels[0, start : start + side, start : start + side] = np.uint8(FAINT_COLOUR) + noise
    return pixels
