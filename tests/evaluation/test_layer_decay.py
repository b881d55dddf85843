"""Learning-rate factors and weight decay against MAE's and SimMIM's parameter groups."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import from_torch_names, swin_weights
from golden.finetune_cases import MAE_RUN, MAE_VIT, mae_shapes

from repre_jax.evaluation.layer_decay import layer_of, layer_scales, scale_by_layer
from repre_jax.models import Swin, ViT
from repre_jax.optimizers import decayed_parameters

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "finetune.npz")
VIT = ViT(
    patch_size=MAE_VIT.patch_size,
    width=MAE_VIT.width,
    depth=MAE_VIT.depth,
    heads=MAE_VIT.heads,
    image_size=MAE_VIT.image_size,
)
SWIN = Swin(swin_weights.WIDTH, swin_weights.DEPTHS, swin_weights.HEADS, window=3, image_size=96)


def recorded(model: str, quantity: str) -> dict:
    """Our tree, each leaf full of the number that the official groups have for it."""
    names, numbers = (GOLDEN[f"layers/{model}/{key}"] for key in ("names", quantity))
    if model == "mae":
        shapes = mae_shapes()
    else:
        shapes = swin_weights.shapes(swin_weights.CASES["transformer_ssl"])
        shapes |= {"head.weight": (5, 8), "head.bias": (5,)}
    state = {name: np.full(shapes[name], x) for name, x in zip(names, numbers, strict=True)}
    if model == "mae":
        # MAE has the norm of the pooled feature instead of the encoder's.
        state |= {f"norm.{part}": state[f"fc_norm.{part}"] for part in ("weight", "bias")}
    encoder = from_torch_names.encoder if model == "mae" else swin_weights.params_of
    return {"encoder": encoder(state)} | from_torch_names.classifier(state)


@pytest.mark.parametrize(
    ("model", "encoder", "decay"), [("mae", VIT, MAE_RUN.layer_decay), ("swin", SWIN, 0.9)]
)
def test_groups_are_the_official_ones(model, encoder, decay):
    scales, decays = recorded(model, "scales"), recorded(model, "decays")
    ours = layer_scales(scales, encoder, decay)
    jax.tree.map(lambda x, theirs: np.testing.assert_allclose(theirs, x, rtol=1e-6), ours, scales)
    ours = decayed_parameters("kernels", decays)
    jax.tree.map(lambda x, theirs: np.testing.assert_array_equal(theirs, 0.05 * x), ours, decays)


@pytest.mark.parametrize("encoder", [VIT, SWIN], ids=["vit", "swin"])
def test_every_parameter_of_an_encoder_has_a_layer(encoder):
    images = jnp.zeros((1, encoder.image_size, encoder.image_size, 3))
    params = jax.eval_shape(encoder.init, jax.random.key(0), images)["params"]
    scales = set(jax.tree.leaves(layer_scales({"encoder": params}, encoder, 0.5)))
    assert scales == {0.5**k for k in range(encoder.depth + 2)}


def test_an_unknown_part_is_an_error():
    with pytest.raises(ValueError, match="stem"):
        layer_of("encoder/stem/kernel", VIT)


def test_updates_are_scaled():
    transformation = scale_by_layer({"a": 0.5, "b": 2.0})
    updates, _ = transformation.update({"a": jnp.ones(2), "b": jnp.ones(1)}, None)
    np.testing.assert_array_equal(updates["a"], [0.5, 0.5])
    np.testing.assert_array_equal(updates["b"], [2.0])
