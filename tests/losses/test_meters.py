import jax
import jax.numpy as jnp
import numpy as np
import pytest

from repre_jax.losses.meters import (
    alignment,
    collapse_verdict,
    effective_rank,
    feature_std,
    spectrum,
    uniformity,
)


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


def test_verdict_is_silent_on_healthy_features():
    assert collapse_verdict(0.05, 384, 80.0) is None
    # An untrained transformer on digits.
    assert collapse_verdict(0.18 * 192**-0.5, 192, 5.8) is None
    dino = {"teacher_entropy": 6.0, "teacher_divergence": 0.4, "prototypes": 65536}
    assert collapse_verdict(0.05, 384, 80.0, **dino) is None


def test_verdict_names_the_collapse():
    assert "one point" in collapse_verdict(0.0001, 384, 80.0)
    assert "one point" in collapse_verdict(float("nan"), 384, 80.0)
    assert "one line" in collapse_verdict(0.05, 384, 1.2)


def test_verdict_on_features_that_are_computed():
    rng = np.random.default_rng(0)
    common = np.ones(64) + 0.01 * rng.normal(size=(500, 64))
    spread = np.ones(64) + 1.0 * rng.normal(size=(500, 64))
    opposite = np.outer(rng.choice([-1.0, 1.0], 500), np.ones(64))
    verdicts = [
        collapse_verdict(float(feature_std(x)), 64, float(effective_rank(x)))
        for x in (common, spread, opposite)
    ]
    assert "one point" in verdicts[0]
    assert verdicts[1] is None
    assert "one line" in verdicts[2]


@pytest.mark.parametrize(
    ("entropy", "divergence", "expected"),
    [
        (0.001, 0.001, "onto one prototype"),
        (np.log(1024) - 1e-4, 1e-4, "even indifference"),
        # Sure or unsure of itself, but of each image something else: no collapse.
        (0.001, 0.5, None),
        (np.log(1024) - 1e-4, 0.5, None),
        (3.0, 0.001, None),
    ],
)
def test_verdict_on_the_teacher(entropy, divergence, expected):
    verdict = collapse_verdict(
        0.05, 384, 80.0, teacher_entropy=entropy, teacher_divergence=divergence, prototypes=1024
    )
    assert verdict is None if expected is None else expected in verdict


def test_alignment_and_uniformity_are_their_formulas():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 70, 5)).astype(np.float32)
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second))
    np.testing.assert_allclose(alignment(first, second), ((a - b) ** 2).sum(1), rtol=1e-5)
    pairs = [
        np.exp(-2 * np.sum((a[i] - a[j]) ** 2)) for i in range(70) for j in range(70) if i != j
    ]
    np.testing.assert_allclose(uniformity(first), np.log(np.mean(pairs)), rtol=1e-5)
    assert float(uniformity(np.ones((3, 5), np.float32))) == pytest.approx(0, abs=1e-6)
    assert not alignment(first, first).any()


def test_spectrum_is_that_of_the_centred_features():
    rng = np.random.default_rng(0)
    left, _ = np.linalg.qr(rng.normal(size=(30, 30)) - 0.0)
    centred = left[:, :3] - left[:, :3].mean(axis=0)
    basis, _ = np.linalg.qr(centred)
    features = basis * np.array([3.0, 2.0, 1.0]) + 7.0
    np.testing.assert_allclose(spectrum(features), [3 / 6, 2 / 6, 1 / 6], rtol=1e-4)
