"""A ViT as a detector's backbone: what it keeps of the encoder's form."""

import jax
import jax.numpy as jnp
import pytest

from repre_jax.models.detection.vitdet import detection_vit
from repre_jax.models.vit import ViT


@pytest.mark.parametrize("position", ["learned", "relative"])
@pytest.mark.parametrize("float32_residual", [False, True])
def test_sums_through_the_blocks_are_of_the_encoders_dtype(position, float32_residual):
    vit = ViT(
        8, 16, 2, 2, 32, position=position, float32_residual=float32_residual, dtype=jnp.bfloat16
    )
    images = jnp.zeros((1, 32, 32, 3))
    params = jax.eval_shape(vit.init, jax.random.key(0), images)["params"]
    backbone, _ = detection_vit(
        vit, jax.tree.map(lambda x: jnp.zeros(x.shape), params), window=2, drop_path=0, remat="none"
    )
    maps, _ = jax.eval_shape(lambda: backbone.init_with_output(jax.random.key(0), images))
    assert maps.shape == (1, 4, 4, 16)
    assert maps.dtype == (jnp.float32 if float32_residual else jnp.bfloat16)
