"""The small detectors that detection.npz is recorded of: sizes, images, objects, names of weights.

One is a ViTDet, whose heads are deep and have norms; the other a Swin under FPN with plain heads.
"""

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
SWIN_CANVAS, SWIN_SIZES, OF_SWIN_IMAGE = (96, 160), ((96, 160), (80, 152)), ((0, 1, 2), (0,))


def images() -> np.ndarray:
    """float32 [2, SIDE, SIDE, 3] normalised, 0 beyond each image."""
    return _on_canvases("detection", (SIDE, SIDE), SIZES)


def swin_images() -> np.ndarray:
    """float32 [2, 96, 160, 3] normalised, 0 beyond each image."""
    return _on_canvases("detection/swin", SWIN_CANVAS, SWIN_SIZES)


def _on_canvases(name, canvas, sizes) -> np.ndarray:
    pixels = generator(name).integers(0, 256, (len(sizes), *canvas, 3)).astype(np.uint8)
    found = normalised(pixels)
    for image, (height, width) in zip(found, sizes, strict=True):
        image[height:] = 0
        image[:, width:] = 0
    return found


def bitmap(number: int, size: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    """uint8 [H, W] of an object: the ellipse in its box."""
    (x0, y0, x1, y1), _ = OBJECTS[number]
    whole = np.zeros(size, np.uint8)
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
    """The state dict of detectron2's ViTDet as our tree."""
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

    neck = {
        "double_0a": _doubling(state, "backbone.simfp_2.0"),
        "norm_0": _norm(state, "backbone.simfp_2.1"),
        "double_0b": _doubling(state, "backbone.simfp_2.3"),
        "double_1": _doubling(state, "backbone.simfp_3.0"),
    }
    for number, first in enumerate((4, 1, 0, 1)):
        for place, kernel in enumerate((1, 3)):
            name = f"backbone.simfp_{number + 2}.{first + place}"
            neck[f"convolution_{number}_{kernel}x{kernel}"] = _convolution(state, name)
            neck[f"norm_{number}_{kernel}x{kernel}"] = _norm(state, f"{name}.norm")
    return {"encoder": backbone, "neck": neck, **_heads(state)}


def _affine(state, name):
    return {"kernel": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}


def _convolution(state, name):
    found = {"kernel": state[f"{name}.weight"].transpose(2, 3, 1, 0)}
    return found | ({"bias": state[f"{name}.bias"]} if f"{name}.bias" in state else {})


def _doubling(state, name):
    return _affine(state, name) | {"kernel": state[f"{name}.weight"].transpose(2, 3, 0, 1)}


def _norm(state, name):
    return {"scale": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}


def _dense(state, name):
    return _affine(state, name) | {"kernel": state[f"{name}.weight"].T}


def _heads(state: Mapping[str, np.ndarray]) -> dict:
    """The three heads, deep or plain."""

    def convolved(names):
        names = [name for name in names if f"{name}.weight" in state]
        found = {f"convolution_{k}": _convolution(state, name) for k, name in enumerate(names)}
        with_norms = {k: f"{n}.norm" for k, n in enumerate(names) if f"{n}.norm.weight" in state}
        return found | {f"norm_{k}": _norm(state, name) for k, name in with_norms.items()}

    proposals, box = "proposal_generator.rpn_head", "roi_heads.box_head"
    mask, predictor = "roi_heads.mask_head", "roi_heads.box_predictor"
    layers = [name for name in (f"{box}.fc1", f"{box}.fc2") if f"{name}.weight" in state]
    hidden = {f"hidden_{k}": _dense(state, name) for k, name in enumerate(layers)}
    # Channels come last here, first there.
    kernel = hidden["hidden_0"]["kernel"].reshape(CHANNELS, 7 * 7, UNITS).transpose(1, 0, 2)
    hidden["hidden_0"]["kernel"] = kernel.reshape(-1, UNITS)
    return {
        "proposal_head": convolved(
            [f"{proposals}.conv", f"{proposals}.conv.conv0", f"{proposals}.conv.conv1"]
        )
        | {
            "objectness": _convolution(state, f"{proposals}.objectness_logits"),
            "deltas": _convolution(state, f"{proposals}.anchor_deltas"),
        },
        "box_head": convolved([f"{box}.conv1", f"{box}.conv2"])
        | hidden
        | {
            "classes": _dense(state, f"{predictor}.cls_score"),
            "deltas": _dense(state, f"{predictor}.bbox_pred"),
        },
        "mask_head": convolved([f"{mask}.mask_fcn1", f"{mask}.mask_fcn2"])
        | {
            "double": _doubling(state, f"{mask}.deconv"),
            "classes": _convolution(state, f"{mask}.predictor"),
        },
    }


def swin_parameters(state: Mapping[str, np.ndarray]) -> dict:
    """The state dict of detectron2's detector on a Swin as our tree.

    The encoder's own norm, unread, is left out.
    """
    prefix = "backbone.bottom_up."
    net = {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}
    nothing = {"norm.weight": None, "norm.bias": None}
    encoder = params_of({**nothing, **net}, SWIN_DEPTHS)
    encoder.pop("norm")
    neck = {}
    for k in range(4):
        neck[f"norm_{k}"] = {"scale": net[f"norm{k}.weight"], "bias": net[f"norm{k}.bias"]}
        for part in ("lateral", "output"):
            neck[f"{part}_{k}"] = _convolution(state, f"backbone.fpn_{part}{k + 2}")
    return {"encoder": encoder, "neck": neck, **_heads(state)}
