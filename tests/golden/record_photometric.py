"""Records photometric.npz: what SimCLR's and BYOL's operators make of two small images.

Command (from the repository's root, with the official repositories checked out, in an environment
of the recording's own, and JAX_PLATFORMS=cpu):
    PYTHONPATH=tests python -m golden.record_photometric SIMCLR_CHECKOUT/tf2 DEEPMIND_CHECKOUT

Sources: google-research/simclr 383d4143fd8cf7879ae10f1046a9baeb753ff438, tf2/data_util.py
(random_brightness of version 2, gaussian_blur; contrast, saturation and hue are tf.image's, as
there); google-deepmind/deepmind-research f5de0ede8430809180254ee957abf36ed62579ef,
byol/utils/augmentations.py (adjust_*, _gaussian_blur_single_image).
Versions: Python 3.11, tensorflow-cpu 2.21.0, jax 0.10.2 (CPU), numpy; float32.

Every image is clipped to [0, 1] after every operator, as both codes do. ``jax.tree_map`` is put
back for BYOL's code; what SimCLR's brightness draws is given.

Keys: ``images`` uint8 [2, H, W, 3]; ``<family>/<operator>/<parameter>`` float32 [2, H, W, 3] of the
images divided by 255, where the parameter of every tone is a factor (BYOL adds one less to the
brightness), of hue a part of a turn and of blur a standard deviation;
``<family>/jitter/<four operators, first letters>`` compositions.
"""

import sys
from unittest import mock

import jax
import numpy as np
import tensorflow as tf
from golden.official import GOLDEN, use_checkout

CASES = {
    "brightness": [0.2, 0.6, 1.4],
    "contrast": [0.2, 0.6, 1.8],
    "saturation": [0.0, 0.2, 0.8, 1.8],
    "hue": [-0.2, 0.05, 0.1],
    "blur": [0.1, 0.7, 2.0],
}
JITTER = {"b": ("brightness", 1.3), "c": ("contrast", 0.7), "s": ("saturation", 1.2)}
JITTER["h"] = ("hue", 0.1)
JITTER_ORDERS = ["bcsh", "hscb", "cbhs"]


def images() -> np.ndarray:
    """Those of augmentations.npz twice, one above the other, for a blur of five taps."""
    with np.load(GOLDEN / "augmentations.npz") as archive:
        return np.tile(archive["images"], (1, 2, 1, 1))


def simclr_operators(data_util) -> dict:
    """{name: function of an image [H, W, 3] and its parameter}."""

    def brightness(image, factor):
        with mock.patch.object(data_util.tf.random, "uniform", lambda *_: factor):
            return data_util.random_brightness(image, max_delta=0.8)

    def blur(image, sigma):
        return data_util.gaussian_blur(tf.constant(image), image.shape[0] // 10, sigma)

    return {
        "brightness": brightness,
        "contrast": tf.image.adjust_contrast,
        "saturation": tf.image.adjust_saturation,
        "hue": tf.image.adjust_hue,
        "blur": blur,
    }


def byol_operators(augmentations) -> dict:
    """{name: function of an image [H, W, 3] and its parameter}."""

    def on_colours(operator):
        def adjusted(image, parameter):
            colours = tuple(jax.numpy.moveaxis(image, -1, 0))
            return jax.numpy.stack(operator(colours, parameter), axis=-1)

        return adjusted

    def in_hsv(operator):
        def adjusted(colours, parameter):
            hsv = augmentations.rgb_to_hsv(*colours)
            return augmentations.hsv_to_rgb(*operator(*hsv, parameter))

        return on_colours(adjusted)

    def blur(image, sigma):
        height = image.shape[0]
        return augmentations._gaussian_blur_single_image(image, height / 10, "SAME", sigma)

    return {
        "brightness": on_colours(lambda c, factor: augmentations.adjust_brightness(c, factor - 1)),
        "contrast": on_colours(augmentations.adjust_contrast),
        "saturation": in_hsv(augmentations.adjust_saturation),
        "hue": in_hsv(augmentations.adjust_hue),
        "blur": blur,
    }


def run(operators: dict, pixels: np.ndarray, steps: list[tuple[str, float]]) -> np.ndarray:
    outputs = []
    for image in pixels.astype(np.float32) / 255:
        for operator, parameter in steps:
            image = np.clip(np.asarray(operators[operator](image, parameter)), 0, 1)
        outputs.append(image)
    return np.stack(outputs)


def main() -> None:
    for checkout in sys.argv[1:3]:
        use_checkout(checkout)
    jax.tree_map = jax.tree.map
    import data_util
    from byol.utils import augmentations

    pixels = images()
    recorded = {"images": pixels}
    families = {"simclr": simclr_operators(data_util), "byol": byol_operators(augmentations)}
    for family, operators in families.items():
        for operator, parameters in CASES.items():
            for parameter in parameters:
                steps = [(operator, parameter)]
                recorded[f"{family}/{operator}/{parameter}"] = run(operators, pixels, steps)
        for order in JITTER_ORDERS:
            steps = [JITTER[letter] for letter in order]
            recorded[f"{family}/jitter/{order}"] = run(operators, pixels, steps)
    np.savez_compressed(GOLDEN / "photometric.npz", **recorded)


if __name__ == "__main__":
    main()
