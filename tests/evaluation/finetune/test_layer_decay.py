"""Learning-rate factors and weight decay against MAE's, LoMaR's and SimMIM's parameter groups."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import from_torch_names, swin_weights
from golden.compare import FOLDER
from golden.finetune_cases import LOMAR_VIT, MAE_RUN, MAE_VIT, lomar_weights, mae_weights

from repre_jax.evaluation.finetune.layer_decay import layer_of, layer_scales
from repre_jax.models import Swin, ViT
from repre_jax.training.optimizers import decayed_parameters

GOLDEN = {
    key: value
    for file in ("finetune.npz", "lomar.npz")
    for key, value in np.load(FOLDER / file).items()
}
VIT = ViT(**dataclasses.asdict(MAE_VIT))
RELATIVE_VIT = ViT(**dataclasses.asdict(LOMAR_VIT), position="relative")
SWIN = Swin(swin_weights.WIDTH, swin_weights.DEPTHS, swin_weights.HEADS, window=3, image_size=96)


def recorded(model: str, quantity: str) -> dict:
    """Our tree, each leaf full of the number that the official groups have for it."""
    names, numbers = (GOLDEN[f"layers/{model}/{key}"] for key in ("names", quantity))
    if model == "swin":
        shapes = swin_weights.shapes(swin_weights.CASES["transformer_ssl"])
        shapes |= {"head.weight": (5, 8), "head.bias": (5,)}
    else:
        state = mae_weights() if model == "mae" else lomar_weights()
        shapes = {name: value.shape for name, value in state.items()}
    state = {name: np.full(shapes[name], x) for name, x in zip(names, numbers, strict=True)}
    if model != "swin":
        # These have the norm of the pooled feature instead of the encoder's.
        state |= {f"norm.{part}": state[f"fc_norm.{part}"] for part in ("weight", "bias")}
    encoder = swin_weights.params_of if model == "swin" else from_torch_names.encoder
    return {"encoder": encoder(state)} | from_torch_names.classifier(state)


@pytest.mark.parametrize(
    ("model", "encoder", "decay"),
    [
        ("mae", VIT, MAE_RUN.layer_decay),
        ("lomar", RELATIVE_VIT, MAE_RUN.layer_decay),
        ("swin", SWIN, 0.9),
    ],
)
def test_groups_are_the_official_ones(model, encoder, decay):
    scales, decays = recorded(model, "scales"), recorded(model, "decays")
    ours = layer_scales(scales, encoder, decay)
    jax.tree.map(lambda x, theirs: np.testing.assert_allclose(theirs, x, rtol=1e-6), ours, scales)
    ours = decayed_parameters("kernels", decays)
    jax.tree.map(lambda x, theirs: np.testing.assert_array_equal(theirs, 0.05 * x), ours, decays)


@pytest.mark.parametrize("encoder", [VIT, RELATIVE_VIT, SWIN], ids=["vit", "relative_vit", "swin"])
def test_every_parameter_of_an_encoder_has_a_layer(encoder):
    images = jnp.zeros((1, encoder.image_size, encoder.image_size, 3))
    params = jax.eval_shape(encoder.init, jax.random.key(0), images)["params"]
    scales = set(jax.tree.leaves(layer_scales({"encoder": params}, encoder, 0.5)))
    assert scales == {0.5**k for k in range(encoder.depth + 2)}


def test_an_unknown_part_is_an_error():
    with pytest.raises(ValueError, match="stem"):
        layer_of("encoder/stem/kernel", VIT)
