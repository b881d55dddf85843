"""RandAugment (arXiv 1909.13719) as timm's ``rand-m9-mstd0.5-inc1``, on Pillow images, on the host.

Source: timm/data/auto_augment.py, the "increasing" set. It runs where the crop is made and not on
the device: its operators are defined by Pillow's 8-bit arithmetic (tables over 256 grey levels,
histograms, bicubic warps), of which each image needs one on average, while a device under ``vmap``
would compute all fifteen of them for every image. About a millisecond an image of 224 pixels.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from repre_jax.data.recipes import RandAugment

_HIGHEST = 10.0  # of the magnitude
# ImageNet's mean colour in 8 bits: what comes in from outside the image.
_FILL = (124, 116, 104)


def rand_augment(pixels: np.ndarray, recipe: RandAugment, rng: np.random.Generator) -> np.ndarray:
    """Applies random operators to uint8 [H, W, 3]; every draw is made whatever the others are."""
    image = Image.fromarray(pixels)
    for _ in range(recipe.operators):
        name = _NAMES[rng.integers(len(_NAMES))]
        used, positive = rng.random(2) < 0.5
        level = np.clip(rng.normal(recipe.magnitude, recipe.deviation), 0, _HIGHEST) / _HIGHEST
        if used:
            image = OPERATORS[name](image, float(level if positive else -level))
    return np.asarray(image)


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]):
    """Away from the image as it is (factor 1), up to 0.1 or 1.9."""
    return lambda image, level: kind(image).enhance(max(0.1, 1 + 0.9 * level))


def _affine(coefficients: Callable[[float, tuple[int, int]], tuple[float, ...]]):
    """A warp; ``coefficients`` of the level and the size (width, height), as Pillow takes them."""

    def warp(image, level):
        return image.transform(
            image.size,
            Image.Transform.AFFINE,
            coefficients(level, image.size),
            resample=Image.Resampling.BICUBIC,
            fillcolor=_FILL,
        )

    return warp


def _rotate(image, level):
    return image.rotate(30 * level, resample=Image.Resampling.BICUBIC, fillcolor=_FILL)


def _posterise(image, level):
    """Keeps the four highest bits or fewer; at the highest level none, which Pillow may refuse."""
    dropped = 4 + int(4 * abs(level))
    return image.point([value >> dropped << dropped for value in range(256)] * 3)


def _solarise(image, level):
    return ImageOps.solarize(image, 256 - int(256 * abs(level)))


def _solarise_add(image, level):
    """Brightens what is darker than the middle."""
    add = min(128, int(110 * abs(level)))
    table = [min(255, value + add) if value < 128 else value for value in range(256)]
    return image.point(table * 3)


# name -> function (image, level in [-1, 1]); where only the strength matters the sign does not.
OPERATORS = {
    "auto_contrast": lambda image, level: ImageOps.autocontrast(image),
    "equalise": lambda image, level: ImageOps.equalize(image),
    "invert": lambda image, level: ImageOps.invert(image),
    "rotate": _rotate,
    "posterise": _posterise,
    "solarise": _solarise,
    "solarise_add": _solarise_add,
    "colour": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "shear_x": _affine(lambda level, size: (1, 0.3 * level, 0, 0, 1, 0)),
    "shear_y": _affine(lambda level, size: (1, 0, 0, 0.3 * level, 1, 0)),
    "translate_x": _affine(lambda level, size: (1, 0, 0.45 * level * size[0], 0, 1, 0)),
    "translate_y": _affine(lambda level, size: (1, 0, 0, 0, 1, 0.45 * level * size[1])),
}
_NAMES = tuple(OPERATORS)
