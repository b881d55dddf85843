import jax
import jax.numpy as jnp
import numpy as np
import pytest

from repre_jax.evaluation.health import effective_rank, feature_std


@pytest.mark.parametrize("width", [16, 384])
def test_feature_std_of_an_even_spread_is_one_over_root_width(width):
    features = jax.random.normal(jax.random.key(0), (2000, width)) * 7
    assert float(feature_std(features)) == pytest.approx(width**-0.5, rel=0.03)


def test_feature_std_of_a_collapse_is_zero():
    features = jnp.ones((64, 16)) * jnp.arange(1, 65)[:, None]  # one direction, any length
    assert float(feature_std(features)) < 1e-6


def test_feature_std_equals_numpy():
    features = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32) + 1
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    assert float(jax.jit(feature_std)(features)) == pytest.approx(unit.std(0).mean(), rel=1e-5)


@pytest.mark.parametrize("rank", [1, 5, 32])
def test_effective_rank_counts_equal_directions(rank):
    rng = np.random.default_rng(0)
    left = np.linalg.qr(rng.normal(size=(200, rank)))[0]
    right = np.linalg.qr(rng.normal(size=(32, rank)))[0]
    assert float(jax.jit(effective_rank)(left @ right.T)) == pytest.approx(rank, rel=1e-3)


def test_effective_rank_of_unequal_directions():
    values = np.array([4.0, 2.0, 1.0, 1.0])
    shares = values / values.sum()
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert float(effective_rank(np.diag(values))) == pytest.approx(expected, rel=1e-5)


def test_effective_rank_of_zeros_is_finite():
    assert np.isfinite(float(effective_rank(jnp.zeros((8, 4)))))
