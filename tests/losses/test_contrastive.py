"""Losses with negatives, and without: closed forms, gradients, shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from repre_jax.losses.contrastive import nt_xent, queue_info_nce
from repre_jax.losses.negative_cosine import negative_cosine
from repre_jax.methods import METHODS
from repre_jax.models import ViT
from repre_jax.models.heads import Projected
from repre_jax.schedules import Clock

B, D = 12, 16


def features(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


ENCODER = ViT(patch_size=16, width=8, depth=1, heads=1, image_size=32)


def build(name):
    module = METHODS[name]
    return module.build(module.default_config(), ConfigDict(), Clock(10, 100), ENCODER)


def test_simclr_with_equal_features_is_2_log_2n_minus_1():
    same = np.broadcast_to(features(D), (B, 2, D))
    per_example, _ = build("simclr").loss(same, None, {}, 0)
    np.testing.assert_allclose(per_example, 2 * np.log(2 * B - 1), rtol=1e-6)


def test_nt_xent_against_its_definition():
    first, second = features(B, D), features(B, D, seed=1)
    rows = np.concatenate([first, second]).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    expected = np.zeros(B)
    for i in range(2 * B):
        logits = rows @ rows[i] / 0.1
        others = np.delete(logits, i)
        expected[i % B] += np.log(np.exp(others).sum()) - logits[(i + B) % (2 * B)]
    np.testing.assert_allclose(nt_xent(first, second, temperature=0.1), expected, rtol=1e-5)


def test_nt_xent_sends_gradient_to_both_views():
    first, second = features(B, D), features(B, D, seed=1)
    gradients = jax.grad(lambda a, b: nt_xent(a, b, temperature=0.1).sum(), argnums=(0, 1))
    for gradient in gradients(first, second):
        assert np.isfinite(gradient).all()
        assert (np.abs(gradient).max(axis=1) > 0).all()


@pytest.mark.parametrize(("name", "keys", "value"), [("moco_v2", 65536, 1), ("moby", 4096, 2)])
def test_queue_methods_with_orthogonal_features_are_log_of_queue_plus_1(name, keys, value):
    method = build(name)
    width = method.heads.projector.features[-1]
    queries = jnp.zeros((B, 2, width)).at[:, :, 0].set(1)
    positives = jnp.zeros((B, 2, width)).at[:, :, 1].set(1)
    queue = jnp.zeros((keys, width)).at[:, 2].set(1)
    memory = {"queue": queue, "queue_1": queue, "queue_2": queue}
    per_example, _ = method.loss(Projected(queries, queries), positives, memory, 0)
    np.testing.assert_allclose(per_example, value * np.log(keys + 1), rtol=1e-6)


def test_queue_info_nce_against_its_definition_and_without_gradient_to_the_queue():
    queries, keys, queue = features(B, D), features(B, D, seed=1), features(30, D, seed=2)
    queue /= np.linalg.norm(queue, axis=1, keepdims=True)

    def unit(x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    positive = np.sum(unit(queries) * unit(keys), axis=1) / 0.2
    negatives = unit(queries) @ queue.T / 0.2
    expected = np.log(np.exp(positive) + np.exp(negatives).sum(axis=1)) - positive
    found = queue_info_nce(queries, keys, queue, temperature=0.2)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    gradient = jax.grad(lambda q: queue_info_nce(queries, keys, q, temperature=0.2).sum())(queue)
    assert not gradient.any()


def test_moby_looks_into_the_queue_of_the_other_view():
    """View 1 predicts keys of view 2: a queue of view 2 full of the positive makes it dear."""
    method = build("moby")
    direction = jnp.zeros((B, 2, 256)).at[:, :, 0].set(1)
    far, near = jnp.zeros((4096, 256)).at[:, 1].set(1), jnp.zeros((4096, 256)).at[:, 0].set(1)
    predictions = direction.at[:, 1].set(jnp.roll(direction[:, 1], 5, axis=-1))

    def loss(first, second):
        memory = {"queue_1": first, "queue_2": second}
        return float(method.loss(Projected(None, predictions), direction, memory, 0)[0][0])

    assert loss(far, near) > loss(far, far) + 1
    assert loss(near, far) == pytest.approx(loss(far, far), abs=1e-4)


@pytest.mark.parametrize(("cosine", "value"), [(1, 0), (0, 4), (-1, 8)])
def test_byol_is_0_4_and_8(cosine, value):
    prediction, target = np.zeros((B, 2, D), np.float32), np.zeros((B, 2, D), np.float32)
    prediction[..., 0] = 3
    target[..., 0], target[..., 1] = cosine, 1 - abs(cosine)
    per_example, _ = build("byol").loss(Projected(None, prediction), target, {}, 0)
    np.testing.assert_allclose(per_example, value, atol=1e-6)


def test_simsiam_is_minus_1_and_its_weighted_form_0():
    same = np.broadcast_to(features(D), (B, 2, D))
    per_example, metrics = build("simsiam").loss(Projected(same, 2 * same), None, {}, 0)
    np.testing.assert_allclose(per_example, 0, atol=1e-6)
    assert metrics["negative_cosine"] == pytest.approx(-1)


def test_simsiam_stops_the_gradient_at_the_projections():
    projections, predictions = features(B, 2, D), features(B, 2, D, seed=1)
    loss = build("simsiam").loss
    gradient = jax.grad(lambda z, p: loss(Projected(z, p), None, {}, 0)[0].sum(), argnums=(0, 1))(
        projections, predictions
    )
    assert not gradient[0].any()
    assert gradient[1].any()


def test_simsiam_and_byol_compare_different_views():
    """Equal within a view, orthogonal between the views."""
    views = np.zeros((B, 2, D), np.float32)
    views[:, 0, 0] = views[:, 1, 1] = 1
    per_example, _ = build("simsiam").loss(Projected(views, views), None, {}, 0)
    np.testing.assert_allclose(per_example, 1, atol=1e-6)
    per_example, _ = build("byol").loss(Projected(None, views), views, {}, 0)
    np.testing.assert_allclose(per_example, 4, atol=1e-6)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"must both be \[B, D\]"):
        nt_xent(features(3, D), features(4, D), temperature=0.1)
    with pytest.raises(ValueError, match="queue"):
        queue_info_nce(features(3, D), features(3, D), features(9, D + 1), temperature=0.1)
    with pytest.raises(ValueError, match=r"must be \[B, D\]"):
        negative_cosine(features(3, 2, D), features(3, 2, D))
