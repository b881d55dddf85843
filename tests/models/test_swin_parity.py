"""Swin against four implementations in PyTorch, at sizes where they differ (tests/golden)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.compare import FOLDER, assert_same_shapes
from golden.from_torch_names import with_prefix
from golden.swin_weights import (
    CASES,
    DEPTHS,
    GRADIENT_CASE,
    HEADS,
    WIDTH,
    gradient_direction,
    params_of,
    state_of,
    stored_stages,
    view,
)

from repre_jax.models.swin import SWIN_SIZES, Swin
from repre_jax.models.taps import apply_with_taps

GOLDEN = dict(np.load(FOLDER / "swin.npz"))


def encoder(case):
    return Swin(
        embed_width=WIDTH,
        depths=DEPTHS,
        heads=HEADS,
        window=case.window,
        image_size=case.built,
        norm_epsilon=case.norm_epsilon,
    )


# By the same code as another case.
ALIKE = ("hugging_face_224", "timm_224", "transformer_ssl_224", "esvit_crop")


@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=pytest.mark.slow if x in ALIKE else ()) for x in sorted(CASES)],
)
def test_pooled_features_and_tapped_maps(name):
    case = CASES[name]
    model, params, images = encoder(case), params_of(state_of(case)), view(case)
    initial = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    assert_same_shapes(params, jax.tree.map(lambda x: np.empty(x.shape), initial))
    run = jax.jit(lambda p, x: apply_with_taps(model, {"params": p}, x, model.taps))
    encoded, maps = run(params, images)
    recorded = with_prefix(GOLDEN, f"{name}/")
    np.testing.assert_allclose(encoded.pooled, recorded["pooled"], atol=1e-4)
    for stage in stored_stages(case):
        np.testing.assert_allclose(maps[stage], recorded[f"stage_{stage}"], atol=1e-4)


def test_gradient():
    """Of the first stage and of a shifted block, through all that lies above them."""
    case = CASES[GRADIENT_CASE]
    model, state, images = encoder(case), state_of(case), view(case)

    @jax.jit
    @jax.grad
    def gradient(params):
        return jnp.sum(model.apply({"params": params}, images).pooled * gradient_direction())

    recorded = with_prefix(GOLDEN, f"{GRADIENT_CASE}/gradient/")
    expected = params_of({name: recorded.get(name, 0 * x) for name, x in state.items()})
    known = params_of({name: np.full(x.shape, name in recorded) for name, x in state.items()})
    found = gradient(params_of(state))
    compared = 0
    for ours, theirs, mask in zip(*map(jax.tree.leaves, (found, expected, known)), strict=True):
        if mask.all():
            np.testing.assert_allclose(ours, theirs, atol=1e-4 * max(1, np.abs(theirs).max()))
            compared += 1
    assert compared == len(recorded) == 2 * 2 + 2 * 13 + 3 + 13


@pytest.mark.parametrize("name", ["swin_tiny", "swin_small", "swin_base"])
def test_parameter_counts(name):
    width, depths, heads = SWIN_SIZES[name]
    model = Swin(embed_width=width, depths=depths, heads=heads)
    images = jnp.zeros((1, 224, 224, 3))
    params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    count = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params))
    assert count == GOLDEN[f"parameters/{name}"]
