"""Heads between the encoder's pooled feature and a contrastive loss."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from repre_jax.losses.normalisation import l2_normalise
from repre_jax.models.batch_norm import BatchNorm
from repre_jax.models.dense import Dense
from repre_jax.models.layers import (
    Initializer,
    normal_002,
    torch_default_bias,
    torch_default_kernel,
    torch_default_rows,
)


class ProjectionMLP(nn.Module):
    """Linear layers with BatchNorm and ReLU between them, as the papers' projectors vary them.

    Pre-training normalises by the statistics of the batch; the running mean is only what they are
    computed about (``batch_norm``).

    Attributes:
      features: width of each layer's output; None for that of the input, which is the encoder's.
      biases: whether each linear layer has a bias.
      hidden_norm: BatchNorm before each ReLU.
      output_norm: BatchNorm after the last layer: None, "plain" (no scale, no bias) or "scale".
      kernel_init: of the linear layers.
      bias_init: function of the fan-in, giving the initialiser of a bias.
    """

    features: tuple[int | None, ...]
    biases: tuple[bool, ...]
    hidden_norm: bool = True
    output_norm: str | None = None
    kernel_init: Initializer = torch_default_kernel
    bias_init: Callable[[int], Initializer] = torch_default_bias
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, D] -> [B, features[-1]], float32 where the output is normalised."""
        width = x.shape[-1]
        for k, (features, bias) in enumerate(zip(self.features, self.biases, strict=True)):
            x = Dense(
                features or width,
                use_bias=bias,
                kernel_init=self.kernel_init,
                bias_init=self.bias_init(x.shape[-1]),
                dtype=self.dtype,
                name=f"dense_{k}",
            )(x)
            last = k == len(self.features) - 1
            if self.output_norm if last else self.hidden_norm:
                x = BatchNorm(
                    train,
                    use_scale=not last or self.output_norm == "scale",
                    use_bias=not last,
                    name=f"norm_{k}",
                )(x)
            if not last:
                x = nn.relu(x)
        return x


def moco_v3_projector(layers: int, hidden: int, output: int, dtype: jnp.dtype) -> ProjectionMLP:
    """MoCo v3's projector (3 layers) and predictor (2): no biases, plain BatchNorm at the end.

    Source: facebookresearch/moco-v3, moco/builder.py, _build_mlp.
    """
    return ProjectionMLP(
        features=(hidden,) * (layers - 1) + (output,),
        biases=(False,) * layers,
        output_norm="plain",
        dtype=dtype,
    )


class Projected(NamedTuple):
    """Outputs of ``ProjectorPredictor``: [B, V, K] each, predictions None without a predictor."""

    projections: jax.Array
    predictions: jax.Array | None


class ProjectorPredictor(nn.Module):
    """A projector (both networks) and perhaps a predictor on top of it (online only).

    Views pass one after the other, so that each has BatchNorm statistics of its own.
    """

    projector: nn.Module
    predictor: nn.Module | None = None

    def __call__(self, pooled: jax.Array, train: bool) -> Projected:
        """Pooled features [B, V, D] of the online encoder."""
        projections = [self.projector(x, train) for x in jnp.unstack(pooled, axis=1)]
        if self.predictor is None:
            return Projected(jnp.stack(projections, axis=1), None)
        predictions = [self.predictor(x, train) for x in projections]
        return Projected(jnp.stack(projections, axis=1), jnp.stack(predictions, axis=1))

    def target(self, pooled: jax.Array) -> jax.Array:
        """[B, T, D] -> [B, T, K]; the target's BatchNorm also runs in training mode."""
        return jnp.stack([self.projector(x, True) for x in jnp.unstack(pooled, axis=1)], axis=1)


class PrototypeHead(nn.Module):
    """DINO's head: three-layer MLP, L2 normalisation, weight-normalised linear map to K prototypes.

    Source: facebookresearch/dino, vision_transformer.py, DINOHead.

    Attributes:
      prototypes: K.
      hidden: width of the first two layers.
      bottleneck: width of the third.
      batch_norm: BatchNorm before each GELU, over all views together.
    """

    prototypes: int
    hidden: int = 2048
    bottleneck: int = 256
    batch_norm: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        """[..., D] -> float32 logits [..., K]."""
        for k, features in enumerate((self.hidden, self.hidden, self.bottleneck)):
            x = Dense(features, kernel_init=normal_002, dtype=self.dtype, name=f"dense_{k}")(x)
            if k < 2:
                if self.batch_norm:
                    x = BatchNorm(train, name=f"norm_{k}")(x).astype(self.dtype)
                x = nn.gelu(x, approximate=False)
        x = l2_normalise(x)
        rows = Prototypes(self.prototypes, name="prototypes")(x.shape[-1])
        return jnp.einsum(
            "...d,kd->...k",
            x.astype(self.dtype),
            rows.astype(self.dtype),
            preferred_element_type=jnp.float32,
        )


class Prototypes(nn.Module):
    """Weight-normalised prototypes [K, bottleneck]: scale * direction / |direction|, row by row.

    Rows, unlike a kernel's columns, lie together in memory: with 65,536 columns the norms take
    XLA for CPU most of a step. ``scale`` keeps the rank two that torch gives it, so that rules by
    rank (DINO decays whatever is not one-dimensional) treat it alike. The direction keeps torch's
    default initialisation: the official head fills its 0.02 normals before this layer exists.
    """

    prototypes: int

    @nn.compact
    def __call__(self, bottleneck: int) -> jax.Array:
        """-> float32 [K, bottleneck]."""
        shape = (self.prototypes, bottleneck)
        direction = self.param("direction", torch_default_rows, shape)
        scale = self.param("scale", nn.initializers.ones, (self.prototypes, 1))
        return scale * direction / jnp.linalg.norm(direction, axis=1, keepdims=True)
