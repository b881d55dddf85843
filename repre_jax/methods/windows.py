"""LoMaR's windows: small squares of patches, each a sequence of its own, most of it masked.

Without absolute positions a window of k x k patches is an image of its own, so its pixels are cut
out first and the encoder sees nothing else: the cost does not depend on the size of the image.
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from repre_jax.errors import UserError
from repre_jax.image_size import size_in_words
from repre_jax.methods.method import Keys
from repre_jax.methods.picture import GREY, Picture, shown_pixels
from repre_jax.models import ViT
from repre_jax.models.masking import draw_noise, least, share_of
from repre_jax.models.pixels import encoder_input, patchify, unpatchify
from repre_jax.ranges import AT_LEAST_ONE, OPEN_SHARE, Range

PAIRINGS = ("independent", "released")
RANGES = {"windows": AT_LEAST_ONE, "side": Range(2), "mask_ratio": OPEN_SHARE}


class Windows(NamedTuple):
    """Windows of each image.

    Attributes:
      rows, columns: int32 [B, M] of their first patch.
      masked: bool [B, M, k * k], as many in each.
    """

    rows: jax.Array
    columns: jax.Array
    masked: jax.Array


class Encoded(NamedTuple):
    """What the encoder makes of windows.

    Attributes:
      tokens: [B, M, k * k, D] after its last norm, without the class token.
      patches: of the pixels it was given, [B, M, k * k, P * P * C].
      masked: bool [B, M, k * k].
    """

    tokens: jax.Array
    patches: jax.Array
    masked: jax.Array


def check_windows(config: ConfigDict, encoder: nn.Module, name: str) -> None:
    """Raises UserError when ``encoder`` cannot be trained on the windows of ``config``."""
    if config.pairing not in PAIRINGS:
        raise UserError(f"{name} has pairing={config.pairing!r}: use {' or '.join(PAIRINGS)}.")
    if not isinstance(encoder, ViT) or encoder.stem:
        raise UserError(
            f"{name} masks tokens, so it needs a ViT whose patches stand alone: set "
            "model.name=vit_base."
        )
    masked = share_of(config.side**2, config.mask_ratio)
    if not 0 < masked < config.side**2:
        raise UserError(
            f"{name} masks {masked} of the {config.side**2} patches of a window at "
            f"mask_ratio={config.mask_ratio}: there must be some to see and some to predict."
        )
    places = min(encoder.grid) - config.side + 1
    if config.windows > places:
        raise UserError(
            f"{name} draws {config.windows} windows in different rows and columns, and a window of "
            f"{config.side} x {config.side} patches has only {max(places, 0)} of them in an image "
            f"of {size_in_words(encoder.image_size)} pixels in patches of {encoder.patch_size}: "
            "lower windows or side, or enlarge the image."
        )


def draw(keys: Keys, grid: tuple[int, int], config: ConfigDict) -> Windows:
    """Windows of every image, rows and columns drawn without repetition and paired in order.

    Args:
      keys: of the batch.
      grid: (gh, gw), patches of the image.
      config: ``windows`` (M), ``side`` (k), ``mask_ratio`` and ``pairing``: "independent" windows
        of every image, or those of the "released" code (see ``released``).
    """
    count, side = config.windows, config.side
    place_keys, mask_keys = jax.vmap(jax.random.split, out_axes=1)(keys.examples)

    def places(key):
        keys = jax.random.split(key)
        return tuple(
            jax.random.permutation(k, patches - side + 1)[:count]
            for k, patches in zip(keys, grid, strict=True)
        )

    if config.pairing == "released":
        rows, columns = (released(x, len(place_keys)) for x in places(keys.step))
    else:
        rows, columns = jax.vmap(places)(place_keys)
    noise = draw_noise(mask_keys, (count, side**2))
    return Windows(rows, columns, least(noise, share_of(side**2, config.mask_ratio)))


def released(places: jax.Array, batch: int) -> jax.Array:
    """Places [M] drawn for all images, as the released code pairs them with these: [B, M].

    Its images are repeated window by window, its windows image by image (junchen14/LoMaR,
    models_lomar.py): row r of B * M is image r mod B in window r mod M. Where M divides B, as in
    its README, an image has one window only, masked M times.
    """
    count = places.shape[0]
    row = jnp.arange(batch)[:, None] + batch * jnp.arange(count)
    return places[row % count]


def places(windows: Windows, columns: int, side: int) -> jax.Array:
    """Number in the image, row by row, of every patch of the windows: int32 [B, M, k * k].

    Args:
      windows: of the images.
      columns: gw, patches of a row of an image.
      side: k.
    """
    row, column = jnp.divmod(jnp.arange(side**2), side)
    return (windows.rows[..., None] + row) * columns + windows.columns[..., None] + column


def cut(images: jax.Array, windows: Windows, side: int, patch_size: int) -> jax.Array:
    """Pixels of windows: [B, H, W, C] -> [B, M, k * P, k * P, C]."""
    pixels = side * patch_size

    def one(image, row, column):
        start = (row * patch_size, column * patch_size, 0)
        return jax.lax.dynamic_slice(image, start, (pixels, pixels, image.shape[-1]))

    of_image = jax.vmap(one, in_axes=(None, 0, 0))
    return jax.vmap(of_image)(images, windows.rows, windows.columns)


def see(
    encoder: nn.Module,
    params: Any,
    mask_token: jax.Array,
    images: jax.Array,
    keys: Keys,
    config: ConfigDict,
    **options,
) -> tuple[Encoded, Windows]:
    """(what the encoder makes of windows of images in [0, 1], the windows).

    Args:
      encoder: a ViT.
      params: of the run, the encoder's under "encoder".
      mask_token: [1, 1, D].
      images: float32 [B, H, W, C].
      keys: of the batch.
      config: as of ``draw``.
      **options: passed on to ``encoder.apply``.
    """
    inputs = encoder_input(encoder, images)
    grid = tuple(side // encoder.patch_size for side in images.shape[1:3])
    drawn = draw(keys, grid, config)
    encoded = encode_windows(
        encoder, params["encoder"], mask_token, inputs, drawn, config.side, **options
    )
    return encoded, drawn


def encode_windows(
    encoder: nn.Module,
    params: Any,
    mask_token: jax.Array,
    images: jax.Array,
    windows: Windows,
    side: int,
    **options,
) -> Encoded:
    """The encoder on each window, whose masked patches are ``mask_token`` to it.

    Args:
      encoder, params: a ViT, and its parameters.
      mask_token: [1, 1, D].
      images: [B, H, W, C] as the encoder takes them.
      windows: of these images.
      side: k.
      **options: passed on to ``encoder.apply``.
    """
    batch, count, patches = windows.masked.shape
    # Windows of an image are neighbours, so that a batch split over devices stays split.
    crops = cut(images, windows, side, encoder.patch_size)
    crops = crops.reshape(batch * count, *crops.shape[2:])
    hidden = windows.masked.reshape(batch * count, patches, 1)
    encoded = encoder.apply(
        {"params": params},
        crops,
        change_tokens=lambda x: jnp.where(hidden, mask_token.astype(x.dtype), x),
        **options,
    )
    shape = (batch, count, patches, -1)
    pixels = patchify(crops, encoder.patch_size)
    return Encoded(encoded.tokens.reshape(shape), pixels.reshape(shape), windows.masked)


def picture(
    encoder: nn.Module,
    images: jax.Array,
    encoded: Encoded,
    windows: Windows,
    prediction: jax.Array,
    config: ConfigDict,
) -> Picture:
    """Images with their windows, what is masked in them, and what was predicted there.

    Args:
      encoder: the encoder.
      images: float32 [B, H, W, C] in [0, 1]; outside of the windows they are shown paler.
      encoded, windows: of ``see``.
      prediction: of the patches of every window, [B, M, k * k, P * P * C].
      config: with ``side`` and ``normalise_target``.
    """
    side, patch = config.side, encoder.patch_size
    pixels = shown_pixels(encoder, prediction, encoded.patches, per_patch=config.normalise_target)
    originals = cut(images, windows, side, patch)
    shape = originals.shape

    def as_window(x):
        return unpatchify(x.reshape(-1, *x.shape[2:]), (side, side), patch).reshape(shape)

    masked = as_window(jnp.broadcast_to(encoded.masked[..., None], pixels.shape))
    paste = functools.partial(_paste, windows=windows, patch_size=patch)
    pale = (images + 2) / 3
    return Picture(
        seen=paste(pale, jnp.where(masked, GREY, originals)),
        painted=paste(pale, jnp.where(masked, as_window(pixels), originals)),
        hidden=paste(jnp.zeros(images.shape, bool), masked)[..., 0],
    )


def _paste(images: jax.Array, crops: jax.Array, windows: Windows, patch_size: int) -> jax.Array:
    """Images with crops [B, M, ...] put over their windows, later ones over earlier ones."""

    def one(image, crops, rows, columns):
        for crop, row, column in zip(crops, rows, columns, strict=True):
            image = jax.lax.dynamic_update_slice(
                image, crop, (row * patch_size, column * patch_size, 0)
            )
        return image

    return jax.vmap(one)(images, crops, windows.rows, windows.columns)
