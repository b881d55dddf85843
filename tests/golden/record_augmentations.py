"""Records augmentations.npz: what torchvision's operators make of two small images.

Command (anywhere; writes beside this file):
    pip install torchvision pillow && python tests/golden/record_augmentations.py

Sources: torchvision.transforms.functional, on Pillow images (8 bits, what the official recipes of
DINO and MoCo v3 run) and on float32 tensors; Pillow's ImageFilter.GaussianBlur, as in their code.
Versions: Python 3.11, torch 2.13.0 (CPU), torchvision 0.28.0, Pillow 13.0.0, numpy 2.4.6.

Keys: ``images`` uint8 [2, H, W, 3]; ``pillow/<operator>/<parameter>`` uint8 [2, H, W, 3];
``float/<operator>/<parameter>`` float32 [2, H, W, 3] from the images divided by 255;
``pillow/jitter/<four operators, first letters>`` and ``pillow/view/0`` compositions, see below.
"""

import pathlib

import numpy as np
import torch
from PIL import Image, ImageFilter

try:
    import torchvision.transforms.functional as F
except RuntimeError:
    # A torchvision whose compiled operators do not fit this machine still imports once the two
    # that it wraps are declared; nothing here calls them.
    _LIBRARY = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        _LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision.transforms.functional as F

HEIGHT, WIDTH = 24, 28  # not square, so that mixed-up axes show

OPERATORS = {
    "flip": lambda image, _: F.hflip(image),
    "brightness": F.adjust_brightness,
    "contrast": F.adjust_contrast,
    "saturation": F.adjust_saturation,
    "hue": F.adjust_hue,
    "grey": lambda image, _: F.to_grayscale(image, num_output_channels=3),
    "blur": lambda image, sigma: image.filter(ImageFilter.GaussianBlur(sigma)),
    "solarise": lambda image, _: F.solarize(image, 128),
    "normalise": lambda image, _: F.normalize(
        image, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]
    ),
}
PILLOW_CASES = {
    "flip": [0],
    "brightness": [0.6, 1.0, 1.4],
    "contrast": [0.2, 0.6, 1.4],
    "saturation": [0.0, 0.8, 1.8],
    "hue": [-0.2, -0.1, 0.05, 0.1, 0.5],
    "grey": [0],
    "blur": [0.1, 0.3, 0.5, 1.0, 1.5, 2.0],
    "solarise": [0],
}
FLOAT_CASES = {
    "contrast": [0.6, 1.4],
    "saturation": [0.2, 1.4],
    "hue": [-0.1, 0.03, 0.45],
    "normalise": [0],
}
JITTER = {"b": ("brightness", 1.3), "c": ("contrast", 0.7), "s": ("saturation", 1.2)}
JITTER["h"] = ("hue", 0.1)
JITTER_ORDERS = ["bcsh", "hscb", "cbhs"]
VIEW = [("flip", 0), *(JITTER[letter] for letter in "schb"), ("blur", 1.2), ("solarise", 0)]


def images() -> np.ndarray:
    """Two images: every hue at every lightness, and coloured noise of two scales."""
    rng = np.random.default_rng(0)
    across = np.linspace(0, 1, WIDTH)[None, :]
    down = np.linspace(0, 1, HEIGHT)[:, None]
    waves = [np.cos(2 * np.pi * (across - third / 3)) for third in range(3)]
    sweep = np.stack([0.5 + 0.5 * wave * (1 - down) for wave in waves], axis=-1)
    coarse = rng.random((HEIGHT // 4, WIDTH // 4, 3)).repeat(4, axis=0).repeat(4, axis=1)
    noise = 0.7 * coarse + 0.3 * rng.random((HEIGHT, WIDTH, 3))
    return np.round(255 * np.stack([sweep, noise])).astype(np.uint8)


def on_pillow(pixels: np.ndarray, steps: list[tuple[str, float]]) -> np.ndarray:
    outputs = []
    for image in pixels:
        image = Image.fromarray(image)
        for operator, parameter in steps:
            image = OPERATORS[operator](image, parameter)
        outputs.append(np.asarray(image))
    return np.stack(outputs)


def on_floats(pixels: np.ndarray, operator: str, parameter: float) -> np.ndarray:
    tensors = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    outputs = [OPERATORS[operator](tensor, parameter) for tensor in tensors]
    return torch.stack(outputs).permute(0, 2, 3, 1).numpy()


def main() -> None:
    pixels = images()
    recorded = {"images": pixels}
    for operator, parameters in PILLOW_CASES.items():
        for parameter in parameters:
            recorded[f"pillow/{operator}/{parameter}"] = on_pillow(pixels, [(operator, parameter)])
    for operator, parameters in FLOAT_CASES.items():
        for parameter in parameters:
            recorded[f"float/{operator}/{parameter}"] = on_floats(pixels, operator, parameter)
    for order in JITTER_ORDERS:
        steps = [JITTER[letter] for letter in order]
        recorded[f"pillow/jitter/{order}"] = on_pillow(pixels, steps)
    recorded["pillow/view/0"] = on_pillow(pixels, VIEW)
    np.savez_compressed(pathlib.Path(__file__).with_name("augmentations.npz"), **recorded)


if __name__ == "__main__":
    main()
