"""LoMaR (arXiv 2206.00790): masked reconstruction inside a few small windows of the image.

Each window is a sequence of its own. Four patches of five are masked by a token that the encoder
itself sees; relative positions say where they lie; one linear layer predicts their pixels,
normalised patch by patch.
Source of every number: junchen14/LoMaR, models_lomar.py, main_pretrain_lomar.py, README.md.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from repre_jax.data.recipes import ONE_PLAIN_VIEW, ViewRecipe
from repre_jax.losses.masked import masked_squared_error, patch_targets
from repre_jax.methods import windows
from repre_jax.methods.method import Encoded, EvaluationDefaults, Method, with_overrides
from repre_jax.methods.picture import NORMALISED_PATCHES, PIXELS, Painter
from repre_jax.models.dense import Dense
from repre_jax.models.layers import linear_initialisers, normal_002
from repre_jax.schedules import Clock

VIEWS = ViewRecipe(crop_scale=(0.2, 1.0), interpolation="bicubic", **ONE_PLAIN_VIEW)
# How the paper's encoder is made, under config.model.
MODEL = {"position": "relative", "initialisation": "mae"}
RANGES = windows.RANGES
SMOKE = {"windows": 2, "side": 3}


def default_config() -> ConfigDict:
    """``config.method``: the numbers of README.md's command."""
    return ConfigDict(
        {
            "name": "lomar",
            "windows": 4,  # of each image
            "side": 7,  # of a window, in patches
            "mask_ratio": 0.8,
            "normalise_target": True,  # per patch, norm_pix_loss
            # "independent" windows of every image, as the paper says, or paired with the images as
            # the "released" code does it (methods/windows.py).
            "pairing": "independent",
        }
    )


class Painted(NamedTuple):
    """A prediction of every patch [B, M, k * k, P * P * C], its target, and which are masked."""

    prediction: jax.Array
    target: jax.Array
    masked: jax.Array


class LoMaRHeads(nn.Module):
    """One linear layer from tokens to pixels.

    Attributes:
      normalise_target: whether the target is normalised patch by patch.
    """

    normalise_target: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, encoded: windows.Encoded, train: bool) -> Painted:
        """``windows.Encoded`` -> ``Painted``."""
        values = encoded.patches.shape[-1]
        kernel_init, _ = linear_initialisers("mae")
        pixels = Dense(values, kernel_init=kernel_init, dtype=self.dtype, name="pixels")
        target = patch_targets(encoded.patches, per_patch=self.normalise_target)
        return Painted(pixels(encoded.tokens), target, encoded.masked)


def build(config: ConfigDict, views: ConfigDict, clock: Clock, encoder: nn.Module) -> Method:
    """LoMaR for a run of any length; see ``default_config`` for ``config``.

    Raises:
      UserError: windows that the image has no room for, or an encoder without tokens to mask.
    """
    windows.check_windows(config, encoder, "method.name=lomar")

    heads = LoMaRHeads(config.normalise_target, encoder.dtype)

    def encode(encoder, params, views, keys, taps):
        del taps
        token, view_1 = params["tokens"]["mask"], views["global"][:, 0]
        options = {"train": True, "rngs": {"drop_path": keys.step}}
        encoded, _ = windows.see(encoder, params, token, view_1, keys, config, **options)
        return Encoded(encoded, encoded.tokens.mean(axis=(1, 2)), [])

    def loss(painted, target, memory, step):
        del target, memory, step
        return masked_squared_error(*painted), {}

    def paint(encoder, params, images, keys):
        encoded, drawn = windows.see(
            encoder, params, params["tokens"]["mask"], images, keys, config
        )
        prediction = heads.apply({"params": params["heads"]}, encoded, train=False).prediction
        return windows.picture(encoder, images, encoded, drawn, prediction, config)

    return Method(
        views=with_overrides(VIEWS, views),
        encode=encode,
        heads=heads,
        loss=loss,
        loss_name="masked",
        evaluated="online",
        # The class token's output is not trained: the paper fine-tunes the mean of the others.
        evaluation=EvaluationDefaults(feature="mean", linear="mae", finetune="mae"),
        tokens=lambda key: {"mask": normal_002(key, (1, 1, encoder.width))},
        sees_view_1=False,
        separable=True,
        collapses=False,
        painter=Painter(NORMALISED_PATCHES if config.normalise_target else PIXELS, paint),
    )
