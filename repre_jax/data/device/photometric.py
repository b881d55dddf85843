"""Photometric operators on the device: pure functions of one image in [0, 1], plane by plane.

An image is a tuple of its colours, arrays [H, W]: XLA then fuses any number of operators. With all
colours in one array, an operator that needs each of them would be computed once for each.

The family "torchvision" is torchvision's on Pillow images, which the official PyTorch recipes run,
without their rounding to 8 bits after every operator. "simclr" is that of google-research/simclr
(tf2/data_util.py): contrast is each colour's own, and saturation that of HSV. "byol"
(google-deepmind/deepmind-research, byol/utils/augmentations.py) differs from it in brightness,
which is added. Hue, grey and solarise are the same for all three; ``blur`` has the blurs. Batches
are ``jax.vmap``, so that rows spread over devices are augmented without any communication.
"""

import enum
import functools
import itertools
from collections.abc import Sequence

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

Planes = tuple[jax.Array, ...]


def flip(image: Planes) -> Planes:
    """Mirrored left to right."""
    return tuple(plane[:, ::-1] for plane in image)


def grey(image: Planes) -> Planes:
    """Three equal colours: the luma."""
    return (_luma(image),) * 3


def solarise(image: Planes) -> Planes:
    """Inverts the brighter half of the range, as ``PIL.ImageOps.solarize`` at its default 128.

    The threshold is the middle between 127 / 255 and 128 / 255: 8-bit values fall as in Pillow,
    whatever the rounding of the division by 255.
    """
    return tuple(jnp.where(plane >= 0.5, 1 - plane, plane) for plane in image)


def adjust_tone(
    image: Planes,
    tone: Tone | jax.Array,
    factor: jax.Array,
    family: str = TORCHVISION,
    means: Sequence[jax.Array] | None = None,
) -> Planes:
    """clip(factor * image + (1 - factor) * base), as each family's operators.

    Args:
      image: three planes.
      tone: which base, may be traced. For torchvision: black for BRIGHTNESS, the image's mean luma
        for CONTRAST, each pixel's luma for SATURATION. For the others: the mean of each colour for
        CONTRAST, each pixel's largest colour for SATURATION, which ends where the smallest is 0;
        and BYOL's BRIGHTNESS adds ``factor - 1``.
      factor: at least 0; 1 changes nothing.
      family: static, one of ``recipes.FAMILIES``.
      means: ``contrast_means`` of the image, where they are known.
    """
    means = contrast_means(image, family) if means is None else means
    if family == TORCHVISION:
        pure = _luma(image)
    else:
        pure, chroma = _value_and_chroma(image)
        fullest = pure / jnp.where(chroma > 0, chroma, 1)
        factor = jnp.where(tone == Tone.SATURATION, jnp.minimum(factor, fullest), factor)

    bases = [jnp.where(tone == Tone.CONTRAST, mean, pure) for mean in means]
    bases = [
        jnp.where(tone == Tone.BRIGHTNESS, black, base)
        for black, base in zip(_black(image, family), bases, strict=True)
    ]
    return _blend(image, bases, factor)


def contrast_means(image: Planes, family: str = TORCHVISION) -> tuple[jax.Array, ...]:
    """What the contrast of each plane is measured from: the mean luma, or each plane's own mean."""
    if family == TORCHVISION:
        return (_mean(_luma(image)),) * 3
    return tuple(_mean(plane) for plane in image)


def adjust_hue(image: Planes, turns: jax.Array) -> Planes:
    """Turns the hue of HSV and keeps saturation and value, as ``adjust_hue`` of torchvision.

    Args:
      image: three planes.
      turns: part of a full turn round the colour circle, in [-0.5, 0.5]; 0 changes nothing.
    """
    red, green, blue = image
    value, chroma = _value_and_chroma(image)
    per_chroma = 1 / jnp.where(chroma > 0, chroma, 1)
    sextant = jnp.where(
        value == red,
        (green - blue) * per_chroma,
        jnp.where(value == green, 2 + (blue - red) * per_chroma, 4 + (red - green) * per_chroma),
    )

    # On the circle of six sextants red, green and blue lie at 0, 2 and 4. A colour has the full
    # value up to one sextant from its place, and loses the whole chroma from two sextants on.
    def colour(place):
        away = sextant + 6 * turns - place
        away = jnp.abs(away - 6 * jnp.round(away / 6))
        return jnp.clip(value - chroma * jnp.clip(away - 1, 0, 1), 0, 1)

    return tuple(colour(place) for place in (0.0, 2.0, 4.0))


def colour_jitter(
    image: Planes,
    factors: jax.Array,
    turns: jax.Array,
    tone_order: jax.Array,
    hue_position: jax.Array,
    family: str = TORCHVISION,
) -> Planes:
    """Brightness, contrast, saturation and hue in any order, clipped after each operator.

    The order is data, yet the hue is computed once: three slots for tones lie before it and three
    behind, and a slot on the wrong side of the hue gets factor 1.

    Only contrast looks at more than a pixel. So accelerators, bound by memory, run all operators
    twice, up to the contrast for its means, of which nothing is written, and then to the end: two
    readings of the image and one writing. A CPU goes slot by slot, with means for each of them.

    Args:
      image: three planes.
      factors: [3], indexed by ``Tone``.
      turns: of the hue.
      tone_order: int32 [3], a permutation of ``Tone``.
      hue_position: int32 in 0..3, how many tones come before the hue.
      family: static, one of ``recipes.FAMILIES``.
    """
    return jax.lax.platform_dependent(
        image,
        factors,
        turns,
        tone_order,
        hue_position,
        cpu=functools.partial(jitter_slot_by_slot, family=family),
        default=functools.partial(jitter_in_two_passes, family=family),
    )


def jitter_slot_by_slot(image, factors, turns, tone_order, hue_position, *, family):
    """``colour_jitter`` for a CPU, which would compute fused slots over and over."""

    def adjust(image, active):
        slots = tone_order, jnp.where(active, factors[tone_order], 1.0)
        step = lambda image, slot: (adjust_tone(image, *slot, family), None)  # noqa: E731
        return jax.lax.scan(step, image, slots)[0]

    before_hue = jnp.arange(3) < hue_position
    return adjust(adjust_hue(adjust(image, before_hue), turns), ~before_hue)


def jitter_in_two_passes(image, factors, turns, tone_order, hue_position, *, family):
    """``colour_jitter`` for accelerators."""
    slots = jnp.arange(3)

    def adjust(image, active, means):
        chosen = jnp.where(active, factors[tone_order], 1.0)
        for slot in range(3):
            image = adjust_tone(image, tone_order[slot], chosen[slot], family, means)
        return image

    def run(image, tones, hue, means):
        """With those tones, bool [3], and with the hue or without it."""
        image = adjust(image, tones & (slots < hue_position), means)
        pairs = zip(adjust_hue(image, turns), image, strict=True)
        image = tuple(jnp.where(hue, *pair) for pair in pairs)
        return adjust(image, tones & (slots >= hue_position), means)

    contrast = jnp.argmax(tone_order == Tone.CONTRAST)
    seen = run(image, slots < contrast, hue_position <= contrast, (0.0,) * 3)
    return run(image, slots < 3, True, contrast_means(seen, family))


def band_jitter(
    image: Planes,
    factors: jax.Array,
    tone_order: jax.Array,
    family: str = TORCHVISION,
) -> Planes:
    """Brightness and contrast of an image that is not RGB, clipped after each operator.

    What colours are not asked for is as in ``adjust_tone``; the mean luma of torchvision's contrast
    is the mean of all values, as torchvision has it for grey images.

    Args:
      image: any number of planes.
      factors: [3], indexed by ``Tone``.
      tone_order: int32 [3], a permutation of ``Tone``: which of the two comes first.
      family: static, one of ``recipes.FAMILIES``.
    """
    first, second = (jnp.argmax(tone_order == tone) for tone in (Tone.BRIGHTNESS, Tone.CONTRAST))

    def brighten(image, active):
        factor = jnp.where(active, factors[Tone.BRIGHTNESS], 1.0)
        return _blend(image, _black(image, family), factor)

    image = brighten(image, first < second)
    means = [_mean(plane) for plane in image]
    if family == TORCHVISION:
        means = [sum(means) / len(means)] * len(means)
    return brighten(_blend(image, means, factors[Tone.CONTRAST]), first > second)


def _black(image, family):
    """What brightness is measured from, for each plane."""
    # One below the image: what is left of the blend is an addition.
    return [plane - 1 if family == BYOL else 0.0 for plane in image]


def _blend(image, bases, factor):
    """clip(factor * image + (1 - factor) * base) of planes and what each is blended with."""
    return tuple(
        jnp.clip(factor * plane + (1 - factor) * base, 0, 1)
        for plane, base in zip(image, bases, strict=True)
    )


def jitter_order(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(tone_order [3], hue_position) of ``colour_jitter``: each of the 24 orders equally likely."""
    order_key, position_key = jax.random.split(key)
    row = jax.random.randint(order_key, (), 0, len(_TONE_ORDERS))
    return jnp.asarray(_TONE_ORDERS)[row], jax.random.randint(position_key, (), 0, 4)


def _luma(image: Planes) -> jax.Array:
    """[H, W]."""
    (red, green, blue), (r, g, b) = image, _GREY_WEIGHTS
    return r * red + g * green + b * blue


def _value_and_chroma(image: Planes) -> tuple[jax.Array, jax.Array]:
    """[H, W] each: the largest colour, and by how much the smallest is below it."""
    red, green, blue = image
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
