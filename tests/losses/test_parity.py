"""Losses on random features against the official PyTorch code: values, gradients, centre."""

import jax
import jax.numpy as jnp
import numpy as np
from golden.cases import (
    BATCH,
    DINO_LOSS_TEMPERATURES,
    MOCO_V3_TEMPERATURE,
    dino_logits,
    moco_v3_features,
)
from golden.compare import FOLDER
from golden.from_torch_names import with_prefix

from repre_jax.losses.contrastive import in_batch_info_nce
from repre_jax.losses.self_distillation import self_distillation

DINO = with_prefix(np.load(FOLDER / "dino.npz"), "loss/")
MOCO_V3 = with_prefix(np.load(FOLDER / "moco_v3.npz"), "loss/")


def test_dino_loss_and_gradient_with_a_fresh_and_an_updated_centre():
    for call, temperature in enumerate(DINO_LOSS_TEMPERATURES):
        logits = {name: x.swapaxes(0, 1) for name, x in dino_logits(call).items()}  # [B, V, K]
        centre = DINO["centre"][call - 1, 0] if call else np.zeros(32, np.float32)

        def loss(student, teacher=logits["teacher"], centre=centre, temperature=temperature):
            per_example, _ = self_distillation(
                student,
                teacher,
                centre=centre,
                student_temperature=0.1,
                teacher_temperature=temperature,
            )
            return jnp.mean(per_example)

        value, gradient = jax.value_and_grad(loss)(jnp.asarray(logits["student"]))
        np.testing.assert_allclose(value, DINO["value"][call], atol=1e-5)
        official = DINO["student_gradient"][call].swapaxes(0, 1)
        np.testing.assert_allclose(gradient, official, atol=1e-6)


def test_moco_v3_loss_and_gradient():
    features = moco_v3_features()
    assert features["queries"].shape[0] == 2 * BATCH

    def loss(queries):
        per_example = in_batch_info_nce(queries, features["keys"], temperature=MOCO_V3_TEMPERATURE)
        return 2 * MOCO_V3_TEMPERATURE * jnp.mean(per_example)  # the factor of the method

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(features["queries"]))
    np.testing.assert_allclose(value, MOCO_V3["value"], atol=1e-5)
    np.testing.assert_allclose(gradient, MOCO_V3["query_gradient"], atol=1e-6)
