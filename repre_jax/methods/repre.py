"""RePre (arXiv 2201.06857): a branch that reconstructs the pixels of view 1 from tapped features.

It sees feature maps and pixels, and knows no framework; none knows it.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from repre_jax.errors import UserError
from repre_jax.image_size import height_and_width, size_in_words
from repre_jax.losses.reconstruction import mean_absolute_error
from repre_jax.methods.branch import Weighting
from repre_jax.methods.picture import PIXELS, Painter, Picture
from repre_jax.models.pixels import encoder_input
from repre_jax.models.repre_decoder import RePreDecoder
from repre_jax.models.taps import apply_with_taps

OPERATORS = ("conv", "transformer")


@dataclasses.dataclass(frozen=True)
class RePre:
    """The reconstruction branch: a ``methods.branch.Branch``.

    Attributes:
      decoder: from maps of the tapped blocks to pixels.
      taps: blocks of the encoder, shallow to deep.
      weighting: of the two losses.
    """

    decoder: RePreDecoder
    taps: tuple[int, ...]
    weighting: Weighting

    def init(self, key: jax.Array, maps: Sequence[jax.Array]) -> dict[str, Any]:
        """Parameters {"decoder", "log_variance"?} for maps of these shapes."""
        return {"decoder": self.decoder.init(key, maps)["params"], **self.weighting.init()}

    def reconstruct(self, params: Any, maps: Sequence[jax.Array]) -> jax.Array:
        """Maps [B, gh, gw, D], shallow to deep -> pixels [B, H, W, C]; params of the branch."""
        return self.decoder.apply({"params": params["decoder"]}, maps)

    @property
    def painter(self) -> Painter:
        """The whole view from its taps."""

        def maps_of(encoder, params, images):
            variables = {"params": params["encoder"]}
            inputs = encoder_input(encoder, images)
            return apply_with_taps(encoder, variables, inputs, self.taps)[1]

        def paint(encoder, params, images, keys):
            del keys
            painted = self.reconstruct(params["repre"], maps_of(encoder, params, images))
            return Picture(images, painted, jnp.ones(images.shape[:-1], bool))

        def without(encoder, params, images, keys):
            # The decoder paints from all maps at once, so no map has a picture of its own. What one
            # adds is what is lost when it is its mean over images and places, which the decoder
            # knows how to read, unlike zeros.
            del keys
            maps = maps_of(encoder, params, images)
            means = [jnp.broadcast_to(x.mean((0, 1, 2), keepdims=True), x.shape) for x in maps]
            return {
                block: self.reconstruct(params["repre"], [*maps[:k], means[k], *maps[k + 1 :]])
                for k, block in enumerate(self.taps)
            }

        return Painter(PIXELS, paint, without if len(self.taps) > 1 else None)

    def loss(self, encoder, params, maps, pixels, keys) -> jax.Array:
        """Equation 3 against view 1 in [0, 1] [B, H, W, C] -> float32 [B]."""
        del encoder, keys
        return mean_absolute_error(self.reconstruct(params["repre"], maps), pixels)


def build(config: ConfigDict, encoder: nn.Module, model: ConfigDict, loss_name: str) -> RePre:
    """The branch that ``config.repre`` asks for.

    Args:
      config: ``config.repre``.
      encoder: whose blocks are tapped.
      model: ``config.model``.
      loss_name: of the framework's loss.

    Raises:
      UserError: an option that no form of the branch has, or an encoder that it cannot tap so.
    """
    taps = choose_taps(config.taps, encoder, model.name)
    strides = [encoder.block_strides[k] for k in taps]
    # A single tap takes as many blocks, up to the same stride, as the usual ones.
    usual = encoder.taps if len(taps) == 1 else taps
    shallowest, deepest = encoder.block_strides[usual[0]], strides[-1]
    if any(side % deepest for side in height_and_width(model.image_size)):
        raise UserError(
            "RePre needs maps that halve exactly, and model.image_size="
            f"{size_in_words(model.image_size)} is not a multiple of {deepest}, the stride of the "
            f"deepest map of {model.name}."
        )
    upsamplings = int(math.log2(deepest // shallowest)) if len(taps) == 1 else 0
    decoder = RePreDecoder(
        operator=config.decoder.operator,
        layers=config.decoder.layers,
        width=config.decoder.width,
        patch_size=shallowest,
        blocks=len(usual) - 1,
        upsamplings=upsamplings,
        channels=encoder.channels,
        form=encoder.block_form,
        dtype=encoder.dtype,
    )
    return RePre(decoder, taps, Weighting.of(config, loss_name))


def choose_taps(text: str, encoder: nn.Module, name: str) -> tuple[int, ...]:
    """Blocks that ``config.repre.taps`` means: "multi", "single", or numbers such as "2,5,8,11".

    Raises:
      UserError: not such a text, or blocks that the encoder does not have.
    """
    if encoder.depth < 4 and "," not in text:
        raise UserError(
            f"RePre taps 4 blocks, and {name} has only {encoder.depth}: name several, as in "
            "repre.taps=0,1."
        )
    if text in ("multi", "single"):
        return encoder.taps if text == "multi" else encoder.taps[-1:]
    check_taps(text)
    taps = tuple(int(number) for number in text.split(","))
    if list(taps) != sorted(set(taps)) or taps[-1] >= encoder.depth:
        raise UserError(
            f"repre.taps={text!r} must rise, and {name} has blocks 0 to {encoder.depth - 1}."
        )
    return taps


def check_taps(text: str) -> None:
    """Raises UserError for what ``config.repre.taps`` cannot be, whatever the encoder."""
    numbers = text.split(",")
    if text not in ("multi", "single") and not all(n.strip().isdecimal() for n in numbers):
        raise UserError(f"repre.taps={text!r} must be multi, single, or numbers as in 2,5,8,11.")
