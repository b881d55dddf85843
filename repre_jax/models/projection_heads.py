"""Heads between the encoder's pooled feature and a contrastive loss."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from repre_jax.models.layers import normal_002, torch_default_kernel
from repre_jax.normalisation import l2_normalise


class BatchNormMLP(nn.Module):
    """Linear layers without bias, each followed by BatchNorm; ReLU between layers.

    The projector (3 layers) and predictor (2 layers) of MoCo v3: facebookresearch/moco-v3,
    moco/builder.py, _build_mlp. The last BatchNorm has no learned scale or bias. Statistics are of
    the global batch, since the step is one jitted program over it. Running statistics average the
    biased variance (torch: the unbiased); nothing reads them during pre-training.
    """

    layers: int
    hidden: int
    output: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, D] -> float32 [B, output]."""
        for k in range(self.layers):
            last = k == self.layers - 1
            x = nn.Dense(
                self.output if last else self.hidden,
                use_bias=False,
                kernel_init=torch_default_kernel,
                dtype=self.dtype,
                name=f"dense_{k}",
            )(x)
            x = nn.BatchNorm(
                use_running_average=not train,
                momentum=0.9,
                epsilon=1e-5,
                use_bias=not last,
                use_scale=not last,
                use_fast_variance=False,
                dtype=jnp.float32,
                name=f"norm_{k}",
            )(x)
            if not last:
                x = nn.relu(x)
        return x


class PrototypeHead(nn.Module):
    """DINO's head: three-layer MLP, L2 normalisation, weight-normalised linear map to K prototypes.

    Source: facebookresearch/dino, vision_transformer.py, DINOHead.
    """

    prototypes: int
    hidden: int = 2048
    bottleneck: int = 256
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> float32 logits [..., K]."""
        for k, features in enumerate((self.hidden, self.hidden, self.bottleneck)):
            x = nn.Dense(features, kernel_init=normal_002, dtype=self.dtype, name=f"dense_{k}")(x)
            if k < 2:
                x = nn.gelu(x, approximate=False)
        x = l2_normalise(x)
        kernel = Prototypes(self.prototypes, name="prototypes")(x.shape[-1])
        return jnp.matmul(
            x.astype(self.dtype), kernel.astype(self.dtype), preferred_element_type=jnp.float32
        )


class Prototypes(nn.Module):
    """Weight-normalised kernel [bottleneck, K]: scale * direction / |direction|, column by column.

    ``scale`` keeps the rank two that torch gives it, so that rules by rank (DINO decays whatever is
    not one-dimensional) treat it alike. The direction keeps torch's default initialisation: the
    official head fills its 0.02 normals before this layer exists.
    """

    prototypes: int

    @nn.compact
    def __call__(self, bottleneck: int) -> jax.Array:
        """-> float32 [bottleneck, K]."""
        shape = (bottleneck, self.prototypes)
        direction = self.param("direction", torch_default_kernel, shape)
        scale = self.param("scale", nn.initializers.ones, (1, self.prototypes))
        return scale * direction / jnp.linalg.norm(direction, axis=0, keepdims=True)
