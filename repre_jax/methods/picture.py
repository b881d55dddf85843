"""What a method or a branch reconstructs, as pixels to look at."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from repre_jax.losses.masked import patch_moments
from repre_jax.models.pixels import denormalise

PIXELS = "pixels"
GREY = 0.5  # of what is hidden
NORMALISED_PATCHES = "patches normalised by themselves, shown with each one's own mean and spread"


class Picture(NamedTuple):
    """Images beside what became of them; pixels in [0, 1], reconstructions perhaps beyond.

    Attributes:
      seen: [n, H, W, C], what the encoder saw: hidden places are grey.
      painted: [n, H, W, C], the reconstruction where something was hidden, the image elsewhere.
      hidden: bool [n, H, W], where something was reconstructed.
    """

    seen: jax.Array
    painted: jax.Array
    hidden: jax.Array


@dataclasses.dataclass(frozen=True)
class Painter:
    """How to make a picture.

    Attributes:
      space: in which space the targets lie, for the title.
      paint: (encoder, online params, images float32 [n, H, W, C] in [0, 1], ``Keys``) ->
        ``Picture``, to be jitted.
      without: the same arguments -> {block: [n, H, W, C]}, what is reconstructed where the map of a
        tapped block says nothing; None where a picture is not made of several maps.
    """

    space: str
    paint: Callable[..., Picture]
    without: Callable[..., dict[int, jax.Array]] | None = None


def shown_pixels(
    encoder: nn.Module, prediction: jax.Array, patches: jax.Array, *, per_patch: bool
) -> jax.Array:
    """Predictions of patches [..., P * P * C] as pixels in the range of [0, 1].

    Args:
      encoder: whose input the patches are of.
      prediction: of what ``losses.masked.patch_targets`` says of ``patches``.
      patches: pixels as the encoder takes them.
      per_patch: as there; the mean and the deviation of each patch are given back to it.
    """
    pixels = prediction.astype(jnp.float32)
    if per_patch:
        mean, deviation = patch_moments(patches)
        pixels = pixels * deviation + mean
    if encoder.normalisation:
        colours = pixels.reshape(*pixels.shape[:-1], -1, encoder.channels)
        pixels = denormalise(colours, encoder.normalisation).reshape(pixels.shape)
    return pixels
