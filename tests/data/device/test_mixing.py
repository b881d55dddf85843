"""Mixup and CutMix against timm's, given the same draws, and what is drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.compare import FOLDER
from golden.finetune_cases import MIX_SEEDS, mix_batch

from repre_jax.data.device import mixing
from repre_jax.data.device.mixing import MixRecipe, cutmix_weights, draw_weights, mix, soft_targets

GOLDEN = np.load(FOLDER / "finetune.npz")
DRAWS = 1000


def draws_of(recipe, count):
    """Weights [n, H, W] and shares [n] of so many batches."""
    draw = jax.vmap(lambda key: draw_weights(key, (6, 8), recipe))
    # Compiling takes longer than drawing.
    draw = jax.jit(draw, compiler_options={"xla_backend_optimization_level": 0})
    return jax.device_get(draw(jax.random.split(jax.random.key(0), count)))


@pytest.fixture(scope="module")
def drawn():
    """Weights [n, H, W] and shares [n] of many batches, MAE's numbers."""
    return draws_of(MixRecipe(), DRAWS)


@pytest.mark.parametrize("case", MIX_SEEDS)
def test_mixture_is_timms(case):
    images, labels, classes = mix_batch()
    drawn = {key: GOLDEN[f"mix/{case}/{key}"] for key in ("cut", "share", "centre")}
    share, weights = drawn["share"], np.full(images.shape[1:3], drawn["share"])
    if drawn["cut"]:
        weights = cutmix_weights(images.shape[1:3], share, drawn["centre"])
        share = weights.mean()
    mixed = mixing.mix_images(jnp.asarray(images), weights)
    targets = soft_targets(jnp.asarray(labels), share, classes=classes, smoothing=0.1)
    np.testing.assert_allclose(mixed, GOLDEN[f"mix/{case}/images"], atol=1e-5)
    np.testing.assert_allclose(targets, GOLDEN[f"mix/{case}/targets"], atol=1e-5)


def test_share_of_the_target_is_the_share_of_the_pixels(drawn):
    weights, shares = drawn
    np.testing.assert_allclose(weights.mean(axis=(1, 2)), shares, atol=1e-6)


def test_half_of_the_batches_are_cut_and_half_mixed(drawn):
    weights, shares = drawn
    is_map_of_two = np.array([set(np.unique(w)) <= {0.0, 1.0} for w in weights])
    assert abs(is_map_of_two.mean() - 0.5) < 4 * 0.5 / DRAWS**0.5
    # Beta(0.8, 0.8) has mean 1/2 and variance 1 / (4 (2 * 0.8 + 1)).
    mixed = shares[~is_map_of_two]
    assert abs(mixed.mean() - 0.5) < 0.06
    assert abs(mixed.var() - 1 / (4 * 2.6)) < 0.015


@pytest.mark.parametrize(
    ("recipe", "kinds"),
    [
        (MixRecipe(cutmix=0.0), {"mix"}),
        (MixRecipe(mixup=0.0), {"cut"}),
        (MixRecipe(probability=0.0), {"none"}),
    ],
)
def test_what_is_off_is_never_drawn(recipe, kinds):
    weights, _ = draws_of(recipe, 64)

    def kind(w):
        values = set(np.unique(w).tolist())
        return "none" if values == {1.0} else "cut" if values <= {0.0, 1.0} else "mix"

    found = {kind(w) for w in np.asarray(weights)}
    assert found - {"none"} == kinds - {"none"}
    assert "none" in found or "none" not in kinds


def test_without_mixing_only_labels_are_smoothed():
    images, labels, classes = mix_batch()
    recipe = MixRecipe(mixup=0.0, cutmix=0.0, smoothing=0.3)
    same, targets = mix(jax.random.key(0), images, jnp.asarray(labels), recipe, classes=classes)
    np.testing.assert_array_equal(same, images)
    np.testing.assert_allclose(targets, np.where(np.eye(3)[labels] > 0, 0.8, 0.1), atol=1e-6)
