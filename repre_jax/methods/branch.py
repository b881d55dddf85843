"""What a reconstruction branch beside a framework is to the rest of the library."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from repre_jax.losses.weighting import Weights, fixed_weights, learned_weights
from repre_jax.methods.picture import Painter

WEIGHTINGS = ("learned", "fixed")


@dataclasses.dataclass(frozen=True)
class Weighting:
    """How the loss of the framework and that of the branch are weighed.

    Attributes:
      loss_name: of the framework's loss.
      fixed: constant weights (framework, reconstruct), or None to learn them.
      reconstruct_share: of ``losses.weighting.learned_weights``.
    """

    loss_name: str
    fixed: tuple[float, float] | None
    reconstruct_share: float = 1.0

    @classmethod
    def of(cls, config: ConfigDict, loss_name: str, reconstruct_share: float = 1.0) -> "Weighting":
        """The weighting that ``config.repre`` asks for."""
        fixed = tuple(config.fixed_weights) if config.weighting == "fixed" else None
        return cls(loss_name, fixed, reconstruct_share)

    def init(self) -> dict[str, Any]:
        """{"log_variance"} at step 0, where both weights are 1; {} when they are fixed."""
        if self.fixed is not None:
            return {}
        zero = jnp.zeros((), jnp.float32)
        return {"log_variance": {self.loss_name: zero, "reconstruct": zero}}

    def weights(self, params: Any) -> Weights:
        """The factors at these parameters of the branch."""
        if self.fixed is not None:
            return fixed_weights(*self.fixed)
        learned = params["log_variance"]
        return learned_weights(
            learned[self.loss_name],
            learned["reconstruct"],
            reconstruct_share=self.reconstruct_share,
        )


class Branch(Protocol):
    """A branch that reconstructs view 1.

    Attributes:
      taps: blocks of the encoder whose maps of view 1 it wants.
      weighting: of its loss against the framework's.
    """

    taps: tuple[int, ...]
    weighting: Weighting

    @property
    def painter(self) -> Painter:
        """How to show what it reconstructs."""

    def init(self, key: jax.Array, maps: Sequence[jax.Array]) -> dict[str, Any]:
        """Its parameters, those of ``weighting`` included, for maps of these shapes."""

    def loss(
        self,
        encoder: nn.Module,
        params: Any,
        maps: Sequence[jax.Array],
        pixels: jax.Array,
        keys: Any,
    ) -> jax.Array:
        """float32 [B], never negative.

        Args:
          encoder: the online encoder.
          params: of the run: "encoder", "heads", "repre".
          maps: [B, gh, gw, D] of ``taps``.
          pixels: view 1 in [0, 1], [B, H, W, C].
          keys: ``methods.method.Keys``.
        """
