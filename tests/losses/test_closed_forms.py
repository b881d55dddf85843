"""Losses where they have a closed form, at extreme inputs, and with wrong shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from repre_jax.losses.contrastive import in_batch_info_nce
from repre_jax.losses.reconstruction import mean_absolute_error
from repre_jax.losses.self_distillation import self_distillation
from repre_jax.methods import METHODS
from repre_jax.models import ViT
from repre_jax.models.heads import Projected
from repre_jax.schedules import Clock

N, D, K = 24, 16, 65536
CLOCK = Clock(steps_per_epoch=10, total_steps=100)


ENCODER = ViT(patch_size=16, width=8, depth=1, heads=1, image_size=32)


def build(name):
    module = METHODS[name]
    views = ConfigDict()
    return module.build(module.default_config(), views, CLOCK, ENCODER)


def features(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# ------------------------------------------------------------------------------- closed forms


def test_moco_v3_with_equal_features_is_4_tau_log_n():
    same = np.broadcast_to(features(D), (N, 2, D))
    per_example, _ = build("moco_v3").loss(Projected(None, same), same, {}, 0)
    assert per_example.shape == (N,)
    np.testing.assert_allclose(per_example, 4 * 0.2 * np.log(N), rtol=1e-6)


def test_moco_v3_pairs_each_query_with_the_other_views_key():
    """Keys of view 1 equal queries of view 2 and the other way round: nearly no loss."""
    keys = 5 * np.eye(N, dtype=np.float32)
    keys = np.stack([keys, np.roll(keys, 1, axis=0)], axis=1)  # view 2: another example's direction
    crossed, _ = build("moco_v3").loss(Projected(None, keys[:, ::-1]), keys, {}, 0)
    straight, _ = build("moco_v3").loss(Projected(None, keys), keys, {}, 0)
    positive = np.log1p((N - 1) * np.exp(-1 / 0.2))
    np.testing.assert_allclose(crossed, 4 * 0.2 * positive, rtol=1e-5)
    assert np.min(straight) > np.max(crossed) + 1


def test_dino_with_even_outputs_is_log_k():
    even = jnp.zeros((2, 10, K))
    memory = {"centre": jnp.zeros(K)}
    per_example, metrics = build("dino").loss(even, even[:, :2], memory, 0)
    np.testing.assert_allclose(per_example, np.log(K), rtol=1e-6)
    np.testing.assert_allclose(metrics["teacher_entropy"], np.log(K), rtol=1e-6)


def test_dino_averages_18_pairs_of_different_views():
    """2 global and 8 local views: each teacher view meets all student views but its own."""
    student = np.zeros((1, 10, 3), np.float32)
    teacher = np.zeros((1, 2, 3), np.float32)
    teacher[0, 0, 0] = teacher[0, 1, 1] = 1e3  # certain of one prototype each
    options = {"centre": np.zeros(3), "student_temperature": 1.0, "teacher_temperature": 1.0}

    def loss_when_view_prefers(view, prototype):
        changed = student.copy()
        changed[0, view, prototype] = 2.0
        loss, _ = self_distillation(changed, teacher, **options)
        return float(loss[0])

    wrong = np.log(2 + np.exp(2.0))
    right = wrong - 2.0
    even = np.log(3)
    # Student view 0 meets teacher view 1 alone, which wants prototype 1.
    expected = (17 * even + right) / 18
    assert loss_when_view_prefers(0, 1) == pytest.approx(expected, rel=1e-6)
    assert loss_when_view_prefers(0, 0) == pytest.approx((17 * even + wrong) / 18, rel=1e-6)
    # A local view meets both.
    expected = (16 * even + right + wrong) / 18
    assert loss_when_view_prefers(9, 0) == pytest.approx(expected, rel=1e-6)


def test_reconstruction_is_the_mean_over_pixels_and_colours():
    target = np.zeros((3, 4, 4, 3), np.float32)
    prediction = target.copy()
    prediction[1] = -0.5
    prediction[2, 0, 0, 0] = 4.8
    np.testing.assert_allclose(mean_absolute_error(prediction, target), [0, 0.5, 0.1], rtol=1e-6)


# ---------------------------------------------------------------------------------- stability


@pytest.mark.parametrize("size", [0.0, 1e-20, 1e15])
def test_info_nce_is_finite_for_features_of_any_length(size):
    def total(queries, keys):
        return jnp.mean(in_batch_info_nce(queries, keys, temperature=0.2))

    queries, keys = size * features(N, D), size * features(N, D, seed=1)
    value, gradients = jax.value_and_grad(total, argnums=(0, 1))(queries, keys)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in gradients)
    if size > 1:
        expected = in_batch_info_nce(features(N, D), features(N, D, seed=1), temperature=0.2)
        np.testing.assert_allclose(value, np.mean(expected), rtol=1e-4)


def test_info_nce_at_a_tiny_temperature():
    loss = in_batch_info_nce(features(N, D), features(N, D, seed=1), temperature=1e-4)
    assert np.isfinite(loss).all()
    assert np.min(loss) >= 0


@pytest.mark.parametrize("size", [1e4, 1e30])
def test_dino_is_finite_at_huge_logits(size):
    student, teacher = size * features(N, 4, 32), size * features(N, 2, 32, seed=1)

    def total(student):
        loss, entropy = self_distillation(
            student,
            teacher,
            centre=size * features(32, seed=2),
            student_temperature=0.1,
            teacher_temperature=0.04,
        )
        return jnp.mean(loss), entropy

    (value, entropy), gradient = jax.value_and_grad(total, has_aux=True)(student)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(entropy, 0, atol=1e-6)


def test_losses_of_bfloat16_inputs_are_float32():
    queries = jnp.asarray(features(N, D), jnp.bfloat16)
    assert in_batch_info_nce(queries, queries, temperature=0.2).dtype == jnp.float32
    views = jnp.asarray(features(N, 2, 8), jnp.bfloat16)
    options = {"student_temperature": 0.1, "teacher_temperature": 0.04}
    loss, entropy = self_distillation(views, views, centre=jnp.zeros(8), **options)
    assert loss.dtype == entropy.dtype == jnp.float32
    pixels = jnp.asarray(features(2, 4, 4, 3), jnp.bfloat16)
    assert mean_absolute_error(pixels, pixels).dtype == jnp.float32


def test_no_gradient_reaches_the_teacher_or_the_centre():
    student, teacher = features(4, 3, 8), features(4, 2, 8, seed=1)

    def total(teacher, centre):
        options = {"student_temperature": 0.1, "teacher_temperature": 0.04}
        return jnp.sum(self_distillation(student, teacher, centre=centre, **options)[0])

    for gradient in jax.grad(total, argnums=(0, 1))(teacher, features(8, seed=2)):
        np.testing.assert_array_equal(gradient, 0)


# ------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize(
    ("queries", "keys"), [((4, 8), (5, 8)), ((4, 8), (4, 7)), ((4, 2, 8), (4, 2, 8)), ((8,), (8,))]
)
def test_info_nce_checks_shapes(queries, keys):
    with pytest.raises(ValueError, match=r"must both be \[B, D\]"):
        in_batch_info_nce(np.zeros(queries), np.zeros(keys), temperature=0.2)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ((4, 3, 8), (4, 3, 8)),  # the teacher saw a local view
        ((4, 3, 8), (5, 2, 8)),
        ((4, 3, 8), (4, 2, 9)),
        ((4, 1, 8), (4, 2, 8)),
    ],
)
def test_self_distillation_checks_shapes(student, teacher):
    with pytest.raises(ValueError, match="student"):
        self_distillation(
            np.zeros(student),
            np.zeros(teacher),
            centre=np.zeros(8),
            student_temperature=0.1,
            teacher_temperature=0.04,
        )


def test_reconstruction_checks_shapes():
    with pytest.raises(ValueError, match="differ"):
        mean_absolute_error(np.zeros((2, 4, 4, 3)), np.zeros((1, 4, 4, 3)))
