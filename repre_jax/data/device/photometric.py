"""Photometric operators on the device: pure functions of one image [H, W, C] in [0, 1].

The family "torchvision" is torchvision's on Pillow images, which the official PyTorch recipes run,
without their rounding to 8 bits after every operator. "simclr" is that of google-research/simclr
(tf2/data_util.py): contrast is each colour's own, saturation that of HSV, and the blur a sampled
Gaussian with black beyond the border. "byol" (google-deepmind/deepmind-research,
byol/utils/augmentations.py) differs from it in brightness, which is added. Hue, grey and solarise
are the same for all three. Batches are ``jax.vmap``, so that rows spread over devices are augmented
without any communication.
"""

import enum
import functools
import itertools
import math

import jax
import jax.numpy as jnp

from repre_jax.data.recipes import BYOL, TORCHVISION

# ITU-R 601 luma, Pillow's conversion to "L".
_GREY_WEIGHTS = (0.299, 0.587, 0.114)


class Tone(enum.IntEnum):
    """The three operators of the colour jitter that blend the image with something greyer."""

    BRIGHTNESS = 0
    CONTRAST = 1
    SATURATION = 2


_TONE_ORDERS = tuple(itertools.permutations(Tone))


def flip(image: jax.Array) -> jax.Array:
    """[H, W, C], mirrored left to right."""
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


def adjust_tone(
    image: jax.Array, tone: Tone | jax.Array, factor: jax.Array, family: str = TORCHVISION
) -> jax.Array:
    """clip(factor * image + (1 - factor) * base), as each family's operators.

    Args:
      image: [H, W, 3] in [0, 1].
      tone: which base, may be traced. For torchvision: black for BRIGHTNESS, the image's mean luma
        for CONTRAST, each pixel's luma for SATURATION. For the others: the mean of each colour for
        CONTRAST, each pixel's largest colour for SATURATION, which ends where the smallest is 0;
        and BYOL's BRIGHTNESS adds ``factor - 1``.
      factor: at least 0; 1 changes nothing.
      family: static, one of ``recipes.FAMILIES``.
    """
    if family == TORCHVISION:
        luma = _luma(image)[..., None]
        black, mean, grey = 0.0, _mean(luma[..., 0]), luma
    else:
        value, chroma = _value_and_chroma(image)
        # A base one below the image: what is left of the blend is the addition.
        black = image - 1 if family == BYOL else 0.0
        mean, grey = jax.vmap(_mean, in_axes=-1)(image), value[..., None]
        fullest = (value / jnp.where(chroma > 0, chroma, 1))[..., None]
        factor = jnp.where(tone == Tone.SATURATION, jnp.minimum(factor, fullest), factor)
    base = jnp.where(tone == Tone.CONTRAST, mean, grey)
    base = jnp.where(tone == Tone.BRIGHTNESS, black, base)
    return jnp.clip(factor * image + (1 - factor) * base, 0, 1)


def adjust_hue(image: jax.Array, turns: jax.Array) -> jax.Array:
    """Turns the hue of HSV and keeps saturation and value, as ``adjust_hue`` of torchvision.

    Args:
      image: [H, W, 3] in [0, 1].
      turns: part of a full turn round the colour circle, in [-0.5, 0.5]; 0 changes nothing.
    """
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    value, chroma = _value_and_chroma(image)
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
    family: str = TORCHVISION,
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
      family: static, one of ``recipes.FAMILIES``.
    """

    def adjust(image, active):
        slots = tone_order, jnp.where(active, factors[tone_order], 1.0)
        step = functools.partial(adjust_tone, family=family)
        return jax.lax.scan(lambda im, slot: (step(im, *slot), None), image, slots)[0]

    before_hue = jnp.arange(3) < hue_position
    return adjust(adjust_hue(adjust(image, before_hue), turns), ~before_hue)


def band_jitter(
    image: jax.Array,
    factors: jax.Array,
    tone_order: jax.Array,
    family: str = TORCHVISION,
) -> jax.Array:
    """Brightness and contrast of an image that is not RGB, clipped after each operator.

    What colours are not asked for is as in ``adjust_tone``; the mean luma of torchvision's contrast
    is the mean of all values, as torchvision has it for grey images.

    Args:
      image: [H, W, C] in [0, 1].
      factors: [3], indexed by ``Tone``.
      tone_order: int32 [3], a permutation of ``Tone``: which of the two comes first.
      family: static, one of ``recipes.FAMILIES``.
    """
    first, second = (jnp.argmax(tone_order == tone) for tone in (Tone.BRIGHTNESS, Tone.CONTRAST))
    tones = jnp.asarray((Tone.BRIGHTNESS, Tone.CONTRAST))
    tones = jnp.where(first < second, tones, tones[::-1])

    def adjust(image, tone):
        means = jax.vmap(_mean, in_axes=-1)(image)
        mean = means.mean() if family == TORCHVISION else means
        black = image - 1 if family == BYOL else jnp.zeros_like(image)
        base = jnp.where(tone == Tone.BRIGHTNESS, black, mean)
        factor = factors[tone]
        return jnp.clip(factor * image + (1 - factor) * base, 0, 1), None

    return jax.lax.scan(adjust, image, tones)[0]


def jitter_order(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(tone_order [3], hue_position) of ``colour_jitter``: each of the 24 orders equally likely."""
    order_key, position_key = jax.random.split(key)
    row = jax.random.randint(order_key, (), 0, len(_TONE_ORDERS))
    return jnp.asarray(_TONE_ORDERS)[row], jax.random.randint(position_key, (), 0, 4)


def pillow_blur(image: jax.Array, sigma: jax.Array, largest_sigma: float) -> jax.Array:
    """Separable blur with Pillow's kernel; the outermost pixels go on beyond the border.

    ``PIL.ImageFilter.GaussianBlur`` runs three box filters of fractional width, whose variances
    add up to sigma squared (Gwosdek et al. 2011, "Theoretical foundations of Gaussian convolution
    by extended box filtering"). The kernel here is their convolution; a Gaussian sampled at the
    pixels would hardly blur for sigma < 0.4, where Pillow does. Within the kernel's reach of the
    border Pillow differs, for it extends the border anew before each box filter.

    Args:
      image: [H, W, C] in [0, 1].
      sigma: standard deviation in pixels, from 0 to ``largest_sigma``; may be traced.
      largest_sigma: static; decides the number of taps, 13 for 2 pixels.
    """
    kernel = _blur_kernel(sigma, _box_reach(largest_sigma))
    blurred = _correlate(_correlate(image, kernel, axis=0), kernel, axis=1)
    return jnp.minimum(blurred, 1)  # the rounded weights of white may sum to a little more


def sampled_blur(image: jax.Array, sigma: jax.Array) -> jax.Array:
    """Separable blur of SimCLR and BYOL: a Gaussian sampled at the pixels, black beyond the border.

    Args:
      image: [H, W, C] in [0, 1].
      sigma: standard deviation in pixels, above 0; may be traced. The kernel ends a twentieth of
        the height from its centre: 23 taps at 224 pixels, 1 below 20, which changes nothing.
    """
    reach = image.shape[0] // 20
    distance = jnp.arange(-reach, reach + 1) / sigma
    kernel = jnp.exp(-(distance**2) / 2)
    kernel = kernel / kernel.sum()
    blurred = _correlate(_correlate(image, kernel, axis=1, border=0.0), kernel, axis=0, border=0.0)
    return jnp.minimum(blurred, 1)


def _luma(image: jax.Array) -> jax.Array:
    """[..., 3] -> [...]."""
    red, green, blue = _GREY_WEIGHTS
    return red * image[..., 0] + green * image[..., 1] + blue * image[..., 2]


def _value_and_chroma(image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[..., 3] -> [...], [...]: the largest colour, and by how much the smallest is below it."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    # Not jnp.max over the last axis: XLA's CPU backend would not fuse that with what follows.
    value = jnp.maximum(jnp.maximum(red, green), blue)
    return value, value - jnp.minimum(jnp.minimum(red, green), blue)


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


def _correlate(
    image: jax.Array, kernel: jax.Array, axis: int, border: float | None = None
) -> jax.Array:
    """Weighted sum of shifted slices of [H, W, C] along one axis.

    Beyond the border is the value given, or the outermost pixels go on.

    The kernel differs from example to example, so a convolution would have one group per example
    and colour: ten times as slow on a CPU, and off the fast paths of GPU and TPU, where the slices
    fuse into one memory-bound kernel. The barrier keeps XLA from computing the padding, and what
    comes before it, once for each tap (twice the time on a CPU).
    """
    reach = kernel.size // 2
    size = image.shape[axis]
    widths = [(reach, reach) if a == axis else (0, 0) for a in range(image.ndim)]
    beyond = {"mode": "edge"} if border is None else {"constant_values": border}
    padded = jax.lax.optimization_barrier(jnp.pad(image, widths, **beyond))
    return sum(
        kernel[tap] * jax.lax.slice_in_dim(padded, tap, tap + size, axis=axis)
        for tap in range(kernel.size)
    )
