"""The small ViTDet that detection.npz is recorded of: sizes, images, objects, names of weights."""

from collections.abc import Mapping

import cv2
import numpy as np
from golden.from_torch_names import encoder
from golden.swin_weights import params_of
from golden.weights import generator, normalised

SIDE, PATCH, WIDTH, DEPTH, HEADS, WINDOW, POSITIONS = 128, 16, 32, 5, 2, 3, 4
GLOBAL_BLOCKS = (0, 1, 2, 4)
CHANNELS, UNITS, CLASSES = 16, 24, 3
SIZES = ((128, 128), (96, 128))  # (height, width) of the images, in squares of SIDE
BEFORE_SUPPRESSION, PROPOSALS = (150, 100), 100
# So many that everything is trained on, whatever is drawn.
ANCHORS_SAMPLED, REGIONS_SAMPLED = 10_000, 256
OBJECTS = (
    ((10.0, 12.0, 58.0, 70.0), 0),
    ((60.0, 20.0, 120.0, 90.0), 2),
    ((30.5, 60.25, 55.0, 88.0), 1),
)
OF_IMAGE = ((0, 1, 2), (1,))
# A Swin made for 224 pixels under FPN, on images of other sides: its maps are no multiples of the
# windows, and the last ones are smaller than a window.
SWIN_WIDTH, SWIN_DEPTHS, SWIN_HEADS, SWIN_WINDOW = 8, (2, 2, 2, 2), (1, 2, 2, 2), 7
SWIN_IMAGE = (96, 160)


def images() -> np.ndarray:
    """float32 [2, SIDE, SIDE, 3] normalised, 0 beyond each image."""
    pixels = generator("detection").integers(0, 256, (2, SIDE, SIDE, 3)).astype(np.uint8)
    found = normalised(pixels)
    for image, (height, width) in zip(found, SIZES, strict=True):
        image[height:] = 0
        image[:, width:] = 0
    return found


def swin_images() -> np.ndarray:
    """float32 [1, 96, 160, 3] normalised."""
    pixels = generator("detection/swin").integers(0, 256, (1, *SWIN_IMAGE, 3))
    return normalised(pixels.astype(np.uint8))


def bitmap(number: int) -> np.ndarray:
    """uint8 [SIDE, SIDE] of an object: the ellipse in its box."""
    (x0, y0, x1, y1), _ = OBJECTS[number]
    whole = np.zeros((SIDE, SIDE), np.uint8)
    box = (((x0 + x1) / 2, (y0 + y1) / 2), (x1 - x0, y1 - y0), 0.0)
    return cv2.ellipse(whole, box, 1, thickness=-1)


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """As of ``golden.weights.weight``, larger where logits and deltas are made: they must tell."""
    normal = generator(name).normal(size=shape)
    if name.endswith("bias"):
        return (0.1 * normal).astype(np.float32)
    if "norm" in name or len(shape) == 1:
        return (1 + 0.1 * normal).astype(np.float32)
    if "pos_embed" in name or "rel_pos" in name:
        return (0.2 * normal).astype(np.float32)
    gain = {"cls_score": 3.0, "bbox_pred": 0.5, "anchor_deltas": 0.3, "predictor.weight": 2.0}
    scale = next((value for part, value in gain.items() if part in name), 1.0)
    return (scale * normal / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def parameters(state: Mapping[str, np.ndarray]) -> dict:
    """detectron2's state dict as our tree."""
    net = {
        name.removeprefix("backbone.net."): value
        for name, value in state.items()
        if name.startswith("backbone.net.")
    }
    nothing = {"cls_token": None, "norm.weight": None, "norm.bias": None}
    backbone = encoder({**nothing, **net})
    for name in ("class_token", "norm"):
        backbone.pop(name)
    backbone["position_embedding"] = net["pos_embed"][:, 1:]
    for k in range(DEPTH):
        attention = backbone[f"block_{k}"]["attention"]
        attention["row_offset"] = net[f"blocks.{k}.attn.rel_pos_h"]
        attention["column_offset"] = net[f"blocks.{k}.attn.rel_pos_w"]

    def affine(name):
        return {"kernel": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}

    def convolution(name):
        found = {"kernel": state[f"{name}.weight"].transpose(2, 3, 1, 0)}
        return found | ({"bias": state[f"{name}.bias"]} if f"{name}.bias" in state else {})

    def doubling(name):
        return affine(name) | {"kernel": state[f"{name}.weight"].transpose(2, 3, 0, 1)}

    def norm(name):
        return {"scale": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}

    def dense(name):
        return affine(name) | {"kernel": state[f"{name}.weight"].T}

    neck = {
        "double_0a": doubling("backbone.simfp_2.0"),
        "norm_0": norm("backbone.simfp_2.1"),
        "double_0b": doubling("backbone.simfp_2.3"),
        "double_1": doubling("backbone.simfp_3.0"),
    }
    for number, first in enumerate((4, 1, 0, 1)):
        for place, kernel in enumerate((1, 3)):
            name = f"backbone.simfp_{number + 2}.{first + place}"
            neck[f"convolution_{number}_{kernel}x{kernel}"] = convolution(name)
            neck[f"norm_{number}_{kernel}x{kernel}"] = norm(f"{name}.norm")

    def convolved(head, names):
        found = {f"convolution_{k}": convolution(f"{head}.{n}") for k, n in enumerate(names)}
        return found | {f"norm_{k}": norm(f"{head}.{n}.norm") for k, n in enumerate(names)}

    head = "proposal_generator.rpn_head"
    hidden = dense("roi_heads.box_head.fc1")
    # Channels come last here, first there.
    kernel = hidden["kernel"].reshape(CHANNELS, 7 * 7, UNITS).transpose(1, 0, 2)
    hidden["kernel"] = kernel.reshape(-1, UNITS)
    return {
        "encoder": backbone,
        "neck": neck,
        "proposal_head": {
            "convolution_0": convolution(f"{head}.conv.conv0"),
            "convolution_1": convolution(f"{head}.conv.conv1"),
            "objectness": convolution(f"{head}.objectness_logits"),
            "deltas": convolution(f"{head}.anchor_deltas"),
        },
        "box_head": convolved("roi_heads.box_head", ("conv1", "conv2"))
        | {
            "hidden_0": hidden,
            "classes": dense("roi_heads.box_predictor.cls_score"),
            "deltas": dense("roi_heads.box_predictor.bbox_pred"),
        },
        "mask_head": convolved("roi_heads.mask_head", ("mask_fcn1", "mask_fcn2"))
        | {
            "double": doubling("roi_heads.mask_head.deconv"),
            "classes": convolution("roi_heads.mask_head.predictor"),
        },
    }


def swin_parameters(state: Mapping[str, np.ndarray]) -> dict:
    """detectron2's FPN on a Swin as our tree; the encoder's own norm, unread, is left out."""
    prefix = "bottom_up."
    net = {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}
    nothing = {"norm.weight": None, "norm.bias": None}
    encoder = params_of({**nothing, **net}, SWIN_DEPTHS)
    encoder.pop("norm")
    neck = {}
    for k in range(4):
        neck[f"norm_{k}"] = {"scale": net[f"norm{k}.weight"], "bias": net[f"norm{k}.bias"]}
        for part in ("lateral", "output"):
            name = f"fpn_{part}{k + 2}"
            kernel = state[f"{name}.weight"].transpose(2, 3, 1, 0)
            neck[f"{part}_{k}"] = {"kernel": kernel, "bias": state[f"{name}.bias"]}
    return {"encoder": encoder, "neck": neck}
