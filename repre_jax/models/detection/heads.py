"""What looks for objects on a pyramid: anchors' proposals, boxes and masks of regions.

Sources: detectron2, modeling/proposal_generator/rpn.py (StandardRPNHead), modeling/roi_heads/
{box_head,fast_rcnn,mask_head}.py, and configs/common/models/mask_rcnn_vitdet.py for the deeper
heads with norms; mmdetection's (Swin) are the plain ones, whose hidden layers begin as
detectron2's here. Logits and deltas are float32.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from repre_jax.models.convolution import Conv
from repre_jax.models.detection.anchors import RATIOS
from repre_jax.models.detection.necks import NORM_EPSILON, Doubling
from repre_jax.models.layers import layer_norm

_NORMAL_01, _NORMAL_001 = nn.initializers.normal(0.01), nn.initializers.normal(0.001)
_KAIMING = nn.initializers.variance_scaling(2.0, "fan_out", "normal")  # c2_msra_fill
_XAVIER = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")  # c2_xavier_fill


class ProposalHead(nn.Module):
    """Objectness and deltas of every anchor, by the same weights on every level."""

    convolutions: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, levels: Sequence[jax.Array]) -> list[tuple[jax.Array, jax.Array]]:
        """Maps [B, gh, gw, D] -> (logits [B, gh gw 3], deltas [B, gh gw 3, 4]) of each level."""

        def convolution(width, kernel, name):
            window = (kernel, kernel)
            return Conv(width, window, kernel_init=_NORMAL_01, dtype=self.dtype, name=name)

        width, anchors = levels[0].shape[-1], len(RATIOS)
        hidden = [convolution(width, 3, f"convolution_{k}") for k in range(self.convolutions)]
        objectness, deltas = (
            convolution(anchors, 1, "objectness"),
            convolution(4 * anchors, 1, "deltas"),
        )
        found = []
        for x in levels:
            for layer in hidden:
                x = nn.relu(layer(x))
            logits = objectness(x).reshape(len(x), -1)
            found.append(
                (
                    logits.astype(jnp.float32),
                    deltas(x).reshape(len(x), -1, 4).astype(jnp.float32),
                )
            )
        return found


class BoxHead(nn.Module):
    """Class and box of every region.

    Attributes:
      classes: C, without background, which comes last.
      convolutions: before the hidden layers.
      layers: hidden, of ``hidden`` units.
      norm: whether the convolutions have one.
    """

    classes: int
    convolutions: int = 0
    layers: int = 2
    hidden: int = 1024
    norm: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, regions: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[n, 7, 7, D] -> (logits [n, C + 1], deltas [n, C, 4])."""
        x = regions
        for k in range(self.convolutions):
            x = _convolved(x, k, self.norm, self.dtype)
        x = x.reshape(len(x), -1)
        for k in range(self.layers):
            options = {"kernel_init": _XAVIER, "dtype": self.dtype}
            x = nn.relu(nn.Dense(self.hidden, name=f"hidden_{k}", **options)(x))
        options = {"dtype": self.dtype}
        logits = nn.Dense(self.classes + 1, kernel_init=_NORMAL_01, name="classes", **options)(x)
        deltas = nn.Dense(4 * self.classes, kernel_init=_NORMAL_001, name="deltas", **options)(x)
        deltas = deltas.reshape(len(x), self.classes, 4)
        return logits.astype(jnp.float32), deltas.astype(jnp.float32)


class MaskHead(nn.Module):
    """A mask of every class for every region, at twice the resolution of its features."""

    classes: int
    convolutions: int = 4
    norm: bool = False
    small_predictor: bool = False  # normal 0.001, detectron2; else Kaiming, mmdetection
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, regions: jax.Array) -> jax.Array:
        """[n, 14, 14, D] -> logits [n, 28, 28, C]."""
        x = regions
        for k in range(self.convolutions):
            x = _convolved(x, k, self.norm, self.dtype)
        x = nn.relu(Doubling(x.shape[-1], _KAIMING, dtype=self.dtype, name="double")(x))
        kernel_init = _NORMAL_001 if self.small_predictor else _KAIMING
        x = Conv(self.classes, (1, 1), kernel_init=kernel_init, dtype=self.dtype, name="classes")(x)
        return x.astype(jnp.float32)


def _convolved(x: jax.Array, number: int, norm: bool, dtype: jnp.dtype) -> jax.Array:
    """3 x 3 convolution, maybe with a norm in place of its bias, ReLU."""
    x = Conv(
        x.shape[-1],
        (3, 3),
        use_bias=not norm,
        kernel_init=_KAIMING,
        dtype=dtype,
        name=f"convolution_{number}",
    )(x)
    if norm:
        x = layer_norm(NORM_EPSILON, dtype, f"norm_{number}")(x)
    return nn.relu(x)
