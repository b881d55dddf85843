"""MAE (arXiv 2111.06377): the encoder sees a quarter of the patches, a decoder paints the rest.

The patches are shuffled and the first are kept; the decoder gets mask tokens for the others, puts
all back at their places and predicts the pixels of each patch, normalised by themselves. The loss
is of the hidden patches alone.
Source of every number: facebookresearch/mae, models_mae.py, main_pretrain.py, PRETRAIN.md.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from repre_jax.data.recipes import ONE_PLAIN_VIEW, ViewRecipe
from repre_jax.errors import UserError
from repre_jax.losses.masked import masked_squared_error, patch_targets
from repre_jax.methods.method import Encoded, EvaluationDefaults, Method, with_overrides
from repre_jax.methods.picture import (
    GREY,
    NORMALISED_PATCHES,
    PIXELS,
    Painter,
    Picture,
    shown_pixels,
)
from repre_jax.models import ViT
from repre_jax.models.mae_decoder import MAEDecoder
from repre_jax.models.masking import Shuffle, draw_noise, keep, kept_of, shuffle
from repre_jax.models.pixels import encoder_input, patchify, unpatchify
from repre_jax.models.taps import apply_with_taps
from repre_jax.ranges import AT_LEAST_ONE, OPEN_SHARE
from repre_jax.schedules import Clock

VIEWS = ViewRecipe(crop_scale=(0.2, 1.0), interpolation="bicubic", **ONE_PLAIN_VIEW)
# How the paper's encoder is made, under config.model.
MODEL = {"position": "sincos_columns_first", "initialisation": "mae"}
RANGES = {
    "mask_ratio": OPEN_SHARE,
    "decoder_width": AT_LEAST_ONE,
    "decoder_depth": AT_LEAST_ONE,
    "decoder_heads": AT_LEAST_ONE,
}
SMOKE = {"decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2}


def default_config() -> ConfigDict:
    """``config.method``: the numbers of the published models (--norm_pix_loss)."""
    return ConfigDict(
        {
            "name": "mae",
            "mask_ratio": 0.75,
            "normalise_target": True,  # per patch, norm_pix_loss
            "decoder_width": 512,
            "decoder_depth": 8,
            "decoder_heads": 16,
        }
    )


class Seen(NamedTuple):
    """What the encoder makes of the kept patches, and what the decoder is to find out.

    Attributes:
      tokens: [B, 1 + K, D], class token first.
      shuffled: order of the N patches, the first K of which were kept.
      target: float32 [B, N, P * P * C].
    """

    tokens: jax.Array
    shuffled: Shuffle
    target: jax.Array


class Painted(NamedTuple):
    """A prediction of every patch, [B, N, P * P * C], its target, and which were hidden, [B, N]."""

    prediction: jax.Array
    target: jax.Array
    hidden: jax.Array


class MAEHeads(nn.Module):
    """The decoder."""

    decoder: MAEDecoder

    def __call__(self, seen: Seen, train: bool) -> Painted:
        """``Seen`` -> ``Painted``."""
        prediction = self.decoder(seen.tokens, seen.shuffled, train)
        hidden = seen.shuffled.restore >= seen.tokens.shape[1] - 1
        return Painted(prediction, seen.target, hidden)


def see(
    encoder: nn.Module,
    params: Any,
    images: jax.Array,
    noise: jax.Array,
    config: ConfigDict,
    **options,
) -> Seen:
    """The encoder on the patches of least noise.

    Args:
      encoder, params: a ViT with absolute positions, and its parameters.
      images: [B, H, W, C] as it takes them.
      noise: float32 [B, N].
      config: of ``default_config``.
      **options: passed on to ``encoder.apply``.
    """
    shuffled, count = shuffle(noise), kept_of(noise.shape[1], config.mask_ratio)
    encoded = encoder.apply(
        {"params": params},
        images,
        change_tokens=lambda tokens: keep(tokens, shuffled, count),
        **options,
    )
    tokens = jnp.concatenate([encoded.pooled[:, None], encoded.tokens], axis=1)
    patches = patchify(images, encoder.patch_size)
    target = patch_targets(patches, per_patch=config.normalise_target)
    return Seen(tokens, shuffled, target)


def build(config: ConfigDict, views: ConfigDict, clock: Clock, encoder: nn.Module) -> Method:
    """MAE for a run of any length; see ``default_config`` for ``config``.

    Raises:
      UserError: as of ``check``.
    """
    check(config, encoder)
    grid, patch_size = encoder.grid, encoder.patch_size
    patches = math.prod(grid)
    heads = MAEHeads(decoder_of(config, encoder))

    def encode(encoder, params, views, keys, taps):
        images = encoder_input(encoder, views["global"][:, 0])
        options = {"train": True, "rngs": {"drop_path": keys.step}}
        noise = draw_noise(keys.examples, (patches,))
        seen = see(encoder, params["encoder"], images, noise, config, **options)
        # RePre wants the maps of the whole view, which nothing else here looks at.
        variables = {"params": params["encoder"]}
        maps = apply_with_taps(encoder, variables, images, taps, **options)[1] if taps else []
        return Encoded(seen, seen.tokens[:, 0], maps)

    def paint(encoder, params, images, keys):
        inputs = encoder_input(encoder, images)
        noise = draw_noise(keys.examples, (patches,))
        seen = see(encoder, params["encoder"], inputs, noise, config)
        painted = heads.apply({"params": params["heads"]}, seen, train=False)
        pixels = shown_pixels(
            encoder,
            painted.prediction,
            patchify(inputs, patch_size),
            per_patch=config.normalise_target,
        )
        hidden = jnp.broadcast_to(painted.hidden[..., None], pixels.shape)
        where = unpatchify(hidden, grid, patch_size)
        return Picture(
            seen=jnp.where(where, GREY, images),
            painted=jnp.where(where, unpatchify(pixels, grid, patch_size), images),
            hidden=where[..., 0],
        )

    def loss(painted, target, memory, step):
        del target, memory, step
        per_example = masked_squared_error(painted.prediction, painted.target, painted.hidden)
        return per_example, {}

    return Method(
        views=with_overrides(VIEWS, views),
        encode=encode,
        heads=heads,
        loss=loss,
        loss_name="masked",
        evaluated="online",
        evaluation=EvaluationDefaults(linear="mae", finetune="mae"),
        separable=True,
        collapses=False,
        painter=Painter(NORMALISED_PATCHES if config.normalise_target else PIXELS, paint),
    )


def decoder_of(config: ConfigDict, encoder: nn.Module) -> MAEDecoder:
    """The decoder behind an encoder."""
    return MAEDecoder(
        grid=encoder.grid,
        values=encoder.channels * encoder.patch_size**2,
        width=config.decoder_width,
        depth=config.decoder_depth,
        heads=config.decoder_heads,
        remat=encoder.remat,
        dtype=encoder.dtype,
        residual_dtype=encoder.residual_dtype,
    )


def check(config: ConfigDict, encoder: nn.Module) -> None:
    """Raises UserError for an encoder that cannot leave patches out, or sizes that cannot be."""
    if not isinstance(encoder, ViT) or encoder.position == "relative":
        raise UserError(
            "method.name=mae leaves patches out, so it needs a ViT with absolute positions: set "
            "model.name=vit_base and model.position=sincos_columns_first."
        )
    patches = math.prod(encoder.grid)
    if not 0 < kept_of(patches, config.mask_ratio) < patches:
        raise UserError(
            f"method.mask_ratio={config.mask_ratio} leaves the encoder none, or all, of the "
            f"{patches} patches of an image."
        )
    if config.decoder_width % config.decoder_heads or config.decoder_width % 4:
        raise UserError(
            f"method.decoder_width={config.decoder_width} must be divisible by 4 and by "
            f"method.decoder_heads={config.decoder_heads}."
        )
