"""Swin against four implementations in PyTorch, at sizes where they differ (tests/golden)."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.compare import assert_same_shapes
from golden.from_torch_names import with_prefix
from golden.swin_weights import CASES, DEPTHS, HEADS, WIDTH, params_of, state_of, view

from repre_jax.models.swin import SWIN_SIZES, Swin
from repre_jax.models.taps import apply_with_taps

GOLDEN = dict(np.load(Path(__file__).parents[1] / "golden" / "swin.npz"))


def encoder(case):
    return Swin(
        embed_width=WIDTH,
        depths=DEPTHS,
        heads=HEADS,
        window=case.window,
        image_size=case.built,
        norm_epsilon=case.norm_epsilon,
    )


@pytest.mark.parametrize("name", sorted(CASES))
def test_pooled_features_and_tapped_maps(name):
    case = CASES[name]
    model, params, images = encoder(case), params_of(state_of(case)), view(case)
    initial = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    assert_same_shapes(params, jax.tree.map(lambda x: np.empty(x.shape), initial))
    run = jax.jit(lambda p, x: apply_with_taps(model, {"params": p}, x, model.taps))
    encoded, maps = run(params, images)
    recorded = with_prefix(GOLDEN, f"{name}/")
    np.testing.assert_allclose(encoded.pooled, recorded["pooled"], atol=1e-4)
    for stage, feature_map in enumerate(maps):
        np.testing.assert_allclose(feature_map, recorded[f"stage_{stage}"], atol=1e-4)


@pytest.mark.parametrize("name", ["swin_tiny", "swin_small", "swin_base"])
def test_parameter_counts(name):
    width, depths, heads = SWIN_SIZES[name]
    model = Swin(embed_width=width, depths=depths, heads=heads)
    images = jnp.zeros((1, 224, 224, 3))
    params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    count = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params))
    assert count == GOLDEN[f"parameters/{name}"]
