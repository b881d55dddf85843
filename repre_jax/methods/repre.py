"""RePre (arXiv 2201.06857): a branch that reconstructs the pixels of view 1 from tapped features.

It sees feature maps and pixels, and knows no contrastive framework; none knows it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from repre_jax.errors import UserError
from repre_jax.losses.reconstruction import mean_absolute_error
from repre_jax.losses.weighting import Weights, fixed_weights, learned_weights
from repre_jax.models.repre_decoder import RePreDecoder
from repre_jax.models.taps import even_taps


@dataclasses.dataclass(frozen=True)
class RePre:
    """The reconstruction branch.

    Attributes:
      decoder: from maps of the tapped blocks to pixels.
      taps: blocks of the encoder, shallow to deep.
      fixed: constant weights (contrast, reconstruct), or None to learn them.
    """

    decoder: RePreDecoder
    taps: tuple[int, ...]
    fixed: tuple[float, float] | None

    def init(self, key: jax.Array, maps: Sequence[jax.Array]) -> dict[str, Any]:
        """Parameters {"decoder", "log_variance"?} for maps of these shapes."""
        params = {"decoder": self.decoder.init(key, maps)["params"]}
        if self.fixed is None:
            zero = jnp.zeros((), jnp.float32)
            params["log_variance"] = {"contrast": zero, "reconstruct": zero}
        return params

    def reconstruct(self, params: Any, maps: Sequence[jax.Array]) -> jax.Array:
        """Maps [B, gh, gw, D], shallow to deep -> pixels [B, H, W, 3]."""
        return self.decoder.apply({"params": params["decoder"]}, maps)

    def loss(self, params: Any, maps: Sequence[jax.Array], pixels: jax.Array) -> jax.Array:
        """Equation 3 against view 1 in [0, 1] [B, H, W, 3] -> float32 [B]."""
        return mean_absolute_error(self.reconstruct(params, maps), pixels)

    def weights(self, params: Any) -> Weights:
        """Equation 4's factors at these parameters."""
        if self.fixed is not None:
            return fixed_weights(*self.fixed)
        return learned_weights(params["log_variance"])


def build(config: ConfigDict, model: ConfigDict, depth: int, dtype: jnp.dtype) -> RePre | None:
    """The branch that ``config.repre`` asks for; None when it is not enabled.

    Raises:
      UserError: an option that no form of the branch has.
    """
    if not config.enabled:
        return None
    options = {
        "repre.taps": (config.taps, ("multi", "single")),
        "repre.weighting": (config.weighting, ("learned", "fixed")),
        "repre.decoder.operator": (config.decoder.operator, ("conv", "transformer")),
    }
    for key, (value, allowed) in options.items():
        if value not in allowed:
            raise UserError(f"{key}={value!r} must be one of {', '.join(allowed)}.")
    if depth < 4:
        raise UserError(f"RePre taps 4 blocks, and {model.name} has only {depth}.")
    taps = even_taps(depth)
    decoder = RePreDecoder(
        operator=config.decoder.operator,
        layers=config.decoder.layers,
        width=config.decoder.width,
        patch_size=model.patch_size,
        blocks=len(taps) - 1,
        dtype=dtype,
    )
    fixed = tuple(config.fixed_weights) if config.weighting == "fixed" else None
    return RePre(decoder, taps if config.taps == "multi" else taps[-1:], fixed)
