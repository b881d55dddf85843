"""Flip and everything photometric, on the device: pure functions of pixels in [0, 1] and keys.

The operators are those of torchvision on Pillow images, which the official recipes run, without
their rounding to 8 bits after every operator. They take one image [H, W, 3]; batches are
``jax.vmap``, so that rows spread over devices are augmented without any communication.

Order: flip, jitter, grey, blur, solarise, as in DINO (main_dino.py, DataAugmentationDINO). MoCo v3
(main_moco.py) flips last; the flip commutes with every operator, so the views are the same.
"""

import enum
import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from repre_jax.data.recipes import ViewRecipe

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# ITU-R 601 luma, Pillow's conversion to "L".
_GREY_WEIGHTS = (0.299, 0.587, 0.114)

# Keeps these draws apart from all others that are made of the same seed ("augm" in ASCII: no step
# or epoch comes near it).
_STREAM = 0x6175676D


class Tone(enum.IntEnum):
    """The three operators of the colour jitter that blend the image with something greyer."""

    BRIGHTNESS = 0
    CONTRAST = 1
    SATURATION = 2


class _Purpose(enum.IntEnum):
    """What a draw is for. Values are part of what a seed means: append, never renumber."""

    FLIP = 0
    JITTER = 1
    ORDER = 2
    FACTORS = 3
    GREY = 4
    BLUR = 5
    SIGMA = 6
    SOLARISE = 7


_TONE_ORDERS = tuple(itertools.permutations(Tone))


def augment_views(
    batch: dict[str, jax.Array], recipe: ViewRecipe, seed: int
) -> dict[str, jax.Array]:
    """Augments all views of a batch; a row depends on its own pixels, index and epoch alone.

    Every draw is a function of (seed, epoch, index, view, purpose), where the global views come
    first and the local crops follow. Hence pixels depend neither on the row's place in the
    batch nor on workers, hosts or devices.

    Args:
      batch: "global" uint8 [B, V, S, S, 3]; "local" uint8 [B, n, s, s, 3] when the recipe has n
        local crops; "index" and "epoch" int32 [B].
      recipe: static. What has probability 0 is not compiled at all.
      seed: of every draw.

    Returns:
      {"global": float32 [B, V, S, S, 3] in [0, 1], not normalised} and, when the recipe has local
      crops, "local": float32 [B, n, s, s, 3].

    Raises:
      ValueError: pixels are not uint8, or views are not as many as the recipe says.
    """
    _check_views(batch["global"], recipe.global_crops, "global")
    if recipe.local_crops:
        _check_views(batch["local"], recipe.local_crops, "local")
    pairs = zip(recipe.blur_probability, recipe.solarise_probability, strict=True)
    views = [
        _augment_group(batch, batch["global"][:, v : v + 1], recipe, seed, v, *probabilities)
        for v, probabilities in enumerate(pairs)
    ]
    augmented = {"global": jnp.concatenate(views, axis=1)}
    if recipe.local_crops:
        augmented["local"] = _augment_group(
            batch,
            batch["local"],
            recipe,
            seed,
            recipe.global_crops,
            recipe.local_blur_probability,
            0.0,
        )
    return augmented


def normalise(pixels: jax.Array) -> jax.Array:
    """[..., 3] in [0, 1] -> zero mean, unit variance per colour over ImageNet."""
    return (pixels - jnp.asarray(IMAGENET_MEAN)) / jnp.asarray(IMAGENET_STD)


def flip(image: jax.Array) -> jax.Array:
    """[H, W, 3], mirrored left to right."""
    return image[:, ::-1]


def grey(image: jax.Array) -> jax.Array:
    """[H, W, 3] with three equal colours: the luma."""
    return jnp.broadcast_to(_luma(image)[..., None], image.shape)


def solarise(image: jax.Array) -> jax.Array:
    """Inverts the brighter half of the range, as ``PIL.ImageOps.solarize`` at its default 128.

    The threshold is the middle between 127 / 255 and 128 / 255: 8-bit values fall as in Pillow,
    whatever the rounding of the division by 255.
    """
    return jnp.where(image >= 0.5, 1 - image, image)


def adjust_tone(image: jax.Array, tone: Tone | jax.Array, factor: jax.Array) -> jax.Array:
    """clip(factor * image + (1 - factor) * base), as ``adjust_*`` of torchvision.

    Args:
      image: [H, W, 3] in [0, 1].
      tone: which base: black for BRIGHTNESS, the image's mean luma for CONTRAST, each pixel's luma
        for SATURATION. May be traced.
      factor: at least 0; 1 changes nothing.
    """
    luma = _luma(image)
    base = jnp.where(tone == Tone.CONTRAST, _mean(luma), luma)
    base = jnp.where(tone == Tone.BRIGHTNESS, 0.0, base)
    return jnp.clip(factor * image + ((1 - factor) * base)[..., None], 0, 1)


def adjust_hue(image: jax.Array, turns: jax.Array) -> jax.Array:
    """Turns the hue of HSV and keeps saturation and value, as ``adjust_hue`` of torchvision.

    Args:
      image: [H, W, 3] in [0, 1].
      turns: part of a full turn round the colour circle, in [-0.5, 0.5]; 0 changes nothing.
    """
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    # Not jnp.max over the last axis: XLA's CPU backend would not fuse that with what follows.
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    per_chroma = 1 / jnp.where(chroma > 0, chroma, 1)
    sextant = jnp.where(
        value == red,
        (green - blue) * per_chroma,
        jnp.where(value == green, 2 + (blue - red) * per_chroma, 4 + (red - green) * per_chroma),
    )
    # On the circle of six sextants red, green and blue lie at 0, 2 and 4. A colour has the full
    # value up to one sextant from its place, and loses the whole chroma from two sextants on.
    away = (sextant + 6 * turns)[..., None] - jnp.asarray((0.0, 2.0, 4.0))
    away = jnp.abs(away - 6 * jnp.round(away / 6))
    lost = chroma[..., None] * jnp.clip(away - 1, 0, 1)
    return jnp.clip(value[..., None] - lost, 0, 1)


def colour_jitter(
    image: jax.Array,
    factors: jax.Array,
    turns: jax.Array,
    tone_order: jax.Array,
    hue_position: jax.Array,
) -> jax.Array:
    """Brightness, contrast, saturation and hue in any order, clipped after each operator.

    The order is data, yet the hue is computed once: three slots for tones lie before it and three
    behind, and a slot on the wrong side of the hue gets factor 1. The slots are a loop because XLA
    would fuse unrolled ones, and so compute each three times over for the next one's luma. On a
    CPU this takes a third of the time of selecting among four operators in each of four places.

    Args:
      image: [H, W, 3] in [0, 1].
      factors: [3], indexed by ``Tone``.
      turns: of the hue.
      tone_order: int32 [3], a permutation of ``Tone``.
      hue_position: int32 in 0..3, how many tones come before the hue.
    """

    def adjust(image, active):
        slots = tone_order, jnp.where(active, factors[tone_order], 1.0)
        return jax.lax.scan(lambda im, slot: (adjust_tone(im, *slot), None), image, slots)[0]

    before_hue = jnp.arange(3) < hue_position
    return adjust(adjust_hue(adjust(image, before_hue), turns), ~before_hue)


def jitter_order(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(tone_order [3], hue_position) of ``colour_jitter``: each of the 24 orders equally likely."""
    order_key, position_key = jax.random.split(key)
    row = jax.random.randint(order_key, (), 0, len(_TONE_ORDERS))
    return jnp.asarray(_TONE_ORDERS)[row], jax.random.randint(position_key, (), 0, 4)


def gaussian_blur(image: jax.Array, sigma: jax.Array, largest_sigma: float) -> jax.Array:
    """Separable blur with Pillow's kernel; the outermost pixels go on beyond the border.

    ``PIL.ImageFilter.GaussianBlur`` runs three box filters of fractional width, whose variances
    add up to sigma squared (Gwosdek et al. 2011, "Theoretical foundations of Gaussian convolution
    by extended box filtering"). The kernel here is their convolution; a Gaussian sampled at the
    pixels would hardly blur for sigma < 0.4, where Pillow does. Within the kernel's reach of the
    border Pillow differs, for it extends the border anew before each box filter.

    Args:
      image: [H, W, 3] in [0, 1].
      sigma: standard deviation in pixels, from 0 to ``largest_sigma``; may be traced.
      largest_sigma: static; decides the number of taps, 13 for 2 pixels.
    """
    kernel = _blur_kernel(sigma, _box_reach(largest_sigma))
    blurred = _correlate(_correlate(image, kernel, axis=0), kernel, axis=1)
    return jnp.minimum(blurred, 1)  # the rounded weights of white may sum to a little more


def _check_views(views: jax.Array, count: int, name: str) -> None:
    if views.dtype != jnp.uint8 or views.ndim != 5 or views.shape[1] != count:
        raise ValueError(
            f'"{name}" views must be uint8 [B, {count}, H, W, 3], '
            f"not {views.dtype} {list(views.shape)}"
        )


def _augment_group(
    batch: dict[str, jax.Array],
    pixels: jax.Array,
    recipe: ViewRecipe,
    seed: int,
    first_view: int,
    blur_probability: float,
    solarise_probability: float,
) -> jax.Array:
    """Augments views that share their probabilities: uint8 [B, V, H, W, 3] -> float32."""
    # Named, because the hardware generators ("rbg") draw differently under vmap.
    root = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), _STREAM)

    def augment_row(epoch, index, row):
        example = jax.random.fold_in(jax.random.fold_in(root, epoch), index)
        views = first_view + jnp.arange(row.shape[0])
        keys = jax.vmap(lambda view: jax.random.fold_in(example, view))(views)
        return jax.vmap(
            lambda key, view: _augment_view(
                key, view, recipe, blur_probability, solarise_probability
            )
        )(keys, row)

    return jax.vmap(augment_row)(batch["epoch"], batch["index"], pixels)


def _augment_view(
    key: jax.Array,
    pixels: jax.Array,
    recipe: ViewRecipe,
    blur_probability: float,
    solarise_probability: float,
) -> jax.Array:
    """One view: uint8 [H, W, 3] -> float32 in [0, 1]."""

    def draw(purpose):
        return jax.random.fold_in(key, purpose)

    def jitter(image):
        *strengths, hue = recipe.jitter
        low = jnp.asarray([*(max(0.0, 1 - s) for s in strengths), -hue])
        high = jnp.asarray([*(1 + s for s in strengths), hue])
        uniform = jax.random.uniform(draw(_Purpose.FACTORS), (4,))
        drawn = low + (high - low) * uniform
        return colour_jitter(image, drawn[:3], drawn[3], *jitter_order(draw(_Purpose.ORDER)))

    def blur(image):
        low, high = recipe.blur_sigma
        sigma = jax.random.uniform(draw(_Purpose.SIGMA), (), minval=low, maxval=high)
        return gaussian_blur(image, sigma, high)

    image = pixels.astype(jnp.float32) / 255
    image = _perhaps(flip, image, recipe.flip_probability, draw(_Purpose.FLIP))
    image = _perhaps(jitter, image, recipe.jitter_probability, draw(_Purpose.JITTER))
    image = _perhaps(grey, image, recipe.grey_probability, draw(_Purpose.GREY))
    image = _perhaps(blur, image, blur_probability, draw(_Purpose.BLUR))
    return _perhaps(solarise, image, solarise_probability, draw(_Purpose.SOLARISE))


def _perhaps(
    operator: Callable[[jax.Array], jax.Array],
    image: jax.Array,
    probability: float,
    key: jax.Array,
) -> jax.Array:
    """``operator(image)`` with that probability; 0 and 1 are settled while tracing."""
    if probability <= 0:
        return image
    if probability >= 1:
        return operator(image)
    return jnp.where(jax.random.bernoulli(key, probability), operator(image), image)


def _luma(image: jax.Array) -> jax.Array:
    """[..., 3] -> [...]."""
    red, green, blue = _GREY_WEIGHTS
    return red * image[..., 0] + green * image[..., 1] + blue * image[..., 2]


def _mean(plane: jax.Array) -> jax.Array:
    """Mean of [H, W] in [0, 1], to 2^-16 at 224 x 224 pixels.

    Sums integers, for which the order does not matter: XLA adds floats in an order that depends on
    how many examples a device holds, and eight devices would differ from one in the last digit.
    """
    steps = 2.0 ** (31 - plane.size.bit_length())  # the sum stays below 2^31
    total = jnp.sum(jnp.round(plane * steps).astype(jnp.int32), dtype=jnp.int32)
    return total.astype(jnp.float32) / (steps * plane.size)


def _box_reach(sigma: float) -> int:
    """Pixels that one of the three box filters touches at either side."""
    return math.floor((math.sqrt(4 * sigma**2 + 1) - 1) / 2) + 1


def _blur_kernel(sigma: jax.Array, reach: int) -> jax.Array:
    """[6 * reach + 1]: a box filter convolved with itself twice, its variance sigma squared."""
    variance = sigma**2 / 3
    whole = jnp.floor((jnp.sqrt(12 * variance + 1) - 1) / 2)
    # Weights are 1 up to `whole` pixels from the centre, and one pixel further what brings the
    # filter's variance to what is asked.
    edge = (2 * whole + 1) * (3 * variance - whole * (whole + 1))
    edge = edge / (6 * ((whole + 1) ** 2 - variance))
    distance = jnp.abs(jnp.arange(-reach, reach + 1))
    box = jnp.where(distance <= whole, 1.0, jnp.where(distance == whole + 1, edge, 0.0))
    box = box / box.sum()
    return _convolve(_convolve(box, box), box)


def _convolve(a: jax.Array, b: jax.Array) -> jax.Array:
    """Full convolution of two short vectors in plain float32: no device's matrix unit rounds it."""
    return sum(a[i] * jnp.pad(b, (i, a.size - 1 - i)) for i in range(a.size))


def _correlate(image: jax.Array, kernel: jax.Array, axis: int) -> jax.Array:
    """Weighted sum of shifted slices of [H, W, 3] along one axis, border pixels repeated.

    The kernel differs from example to example, so a convolution would have one group per example
    and colour: ten times as slow on a CPU, and off the fast paths of GPU and TPU, where the slices
    fuse into one memory-bound kernel. The barrier keeps XLA from computing the padding, and what
    comes before it, once for each tap (twice the time on a CPU).
    """
    reach = kernel.size // 2
    size = image.shape[axis]
    widths = [(reach, reach) if a == axis else (0, 0) for a in range(image.ndim)]
    padded = jax.lax.optimization_barrier(jnp.pad(image, widths, mode="edge"))
    return sum(
        kernel[tap] * jax.lax.slice_in_dim(padded, tap, tap + size, axis=axis)
        for tap in range(kernel.size)
    )
