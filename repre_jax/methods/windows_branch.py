"""LoMaR's windows as the reconstruction beside any framework, in place of RePre's decoder.

What neither paper has: the online encoder of a contrastive method also sees a few masked windows of
view 1 and predicts their patches as in LoMaR. Windows count their positions from their own corner;
learned ones, of the whole image, are resized for them as for local crops.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from repre_jax.losses.masked import masked_squared_error, patch_targets
from repre_jax.methods import windows
from repre_jax.methods.branch import Weighting
from repre_jax.methods.picture import NORMALISED_PATCHES, PIXELS, Painter
from repre_jax.models.dense import Dense
from repre_jax.models.layers import linear_initialisers, normal_002


@dataclasses.dataclass(frozen=True)
class WindowsBranch:
    """A ``methods.branch.Branch`` that taps no block, but runs the encoder on windows.

    Attributes:
      config: ``config.repre.windows``.
      pixels: from tokens to the pixels of a patch.
      width: D of the encoder.
      weighting: of the two losses.
    """

    config: ConfigDict
    pixels: Dense
    width: int
    weighting: Weighting
    taps: tuple[int, ...] = ()

    def init(self, key: jax.Array, maps: Sequence[jax.Array]) -> dict[str, Any]:
        """Parameters {"mask", "pixels", "log_variance"?}."""
        del maps
        keys = jax.random.split(key)
        tokens = jnp.zeros((1, self.width))
        return {
            "mask": normal_002(keys[0], (1, 1, self.width)),
            "pixels": self.pixels.init(keys[1], tokens)["params"],
            **self.weighting.init(),
        }

    def predict(self, encoder, params, images, keys, **options):
        """(prediction [B, M, k * k, P * P * C], encoded windows, windows) of images in [0, 1]."""
        own = params["repre"]
        encoded, drawn = windows.see(
            encoder, params, own["mask"], images, keys, self.config, **options
        )
        return self.pixels.apply({"params": own["pixels"]}, encoded.tokens), encoded, drawn

    def loss(self, encoder, params, maps, pixels, keys) -> jax.Array:
        """LoMaR's loss of view 1 in [0, 1] [B, H, W, C] -> float32 [B]."""
        del maps
        options = {"train": True, "rngs": {"drop_path": jax.random.fold_in(keys.step, 2)}}
        prediction, encoded, _ = self.predict(encoder, params, pixels, keys, **options)
        target = patch_targets(encoded.patches, per_patch=self.config.normalise_target)
        return masked_squared_error(prediction, target, encoded.masked)

    @property
    def painter(self) -> Painter:
        """Windows of the view."""

        def paint(encoder, params, images, keys):
            prediction, encoded, drawn = self.predict(encoder, params, images, keys)
            return windows.picture(encoder, images, encoded, drawn, prediction, self.config)

        return Painter(NORMALISED_PATCHES if self.config.normalise_target else PIXELS, paint)


def build(
    config: ConfigDict, encoder: nn.Module, model: ConfigDict, loss_name: str
) -> WindowsBranch:
    """The branch that ``config.repre`` asks for; see ``methods.repre.build``.

    Raises:
      UserError: windows that the image has no room for, or an encoder without tokens to mask.
    """
    windows.check_windows(config.windows, encoder, "repre.branch=windows")
    kernel_init, _ = linear_initialisers("mae")
    values = encoder.channels * encoder.patch_size**2
    return WindowsBranch(
        config=config.windows,
        pixels=Dense(values, kernel_init=kernel_init, dtype=encoder.dtype),
        width=encoder.width,
        weighting=Weighting.of(config, loss_name, reconstruct_share=0.5),
    )
