import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from benchmarks.flops import decoder_multiply_adds, encoder_multiply_adds, step_flops
from configs import dino_vits, moco_v3_vits
from repre_jax.config_resolution import resolve
from repre_jax.learner import build_learner
from repre_jax.models.repre_decoder import RePreDecoder
from repre_jax.models.vit import ViT
from repre_jax.train_step import loss_and_gradients

BATCH_SIZE = 8


def tiny_learner(config):
    config.train.batch_size = BATCH_SIZE
    return build_learner(config, resolve(config, images=100, devices=1))


def count_by_xla(learner):
    """Of loss and gradients: the formula leaves out augmentation and optimizer."""

    def pixels(views, side):
        return jax.ShapeDtypeStruct((BATCH_SIZE, views, side, side, 3), jnp.float32)

    recipe = learner.method.views
    views = {"global": pixels(2, learner.image_size)}
    if recipe.local_crops:
        views["local"] = pixels(recipe.local_crops, recipe.local_size)
    state = jax.eval_shape(learner.init)
    program = jax.jit(functools.partial(loss_and_gradients, learner)).lower(state, views)
    return program.cost_analysis()["flops"]


@pytest.mark.parametrize(
    "config",
    [dino_vits.get_config("smoke"), moco_v3_vits.get_config("baseline,smoke")],
    ids=["dino_repre", "moco_v3_baseline"],
)
def test_formula_agrees_with_xla(config):
    learner = tiny_learner(config)
    # XLA also counts softmax, GELU and normalisation: 4 to 6 % of so narrow a model.
    ratio = count_by_xla(learner) / step_flops(learner, BATCH_SIZE)["total"]
    assert 1.0 <= ratio <= 1.07


def test_published_sizes():
    sizes = {"patch_size": 16, "depth": 12, "image_size": 224}
    small = encoder_multiply_adds(ViT(width=384, heads=6, **sizes), 224)
    base = encoder_multiply_adds(ViT(width=768, heads=12, **sizes), 224)
    assert small == pytest.approx(4.6e9, rel=0.01)  # DeiT (arXiv 2012.12877), table 5
    assert base == pytest.approx(17.6e9, rel=0.01)


@pytest.mark.parametrize(
    ("operator", "width", "blocks", "taps"),
    [
        ("conv", None, 3, 4),
        ("conv", 64, 3, 4),
        ("conv", 64, 3, 1),
        ("transformer", None, 3, 4),
    ],
)
def test_decoder_agrees_with_xla(operator, width, blocks, taps):
    decoder = RePreDecoder(operator=operator, layers=2, width=width, patch_size=8, blocks=blocks)
    maps = [jax.ShapeDtypeStruct((1, 4, 4, 256), jnp.float32)] * taps
    params = jax.eval_shape(decoder.init, jax.random.key(0), maps)
    by_xla = jax.jit(decoder.apply).lower(params, maps).cost_analysis()["flops"]
    formula = 2 * decoder_multiply_adds(decoder, width=256, grid=4, taps=taps)
    # XLA also counts biases, ReLU, softmax and GELU.
    assert 1.0 <= by_xla / formula <= (1.06 if operator == "transformer" else 1.01)


def test_what_costs_more_and_what_less():
    config = moco_v3_vits.get_config("smoke")
    learner = tiny_learner(config)
    plain = step_flops(learner, BATCH_SIZE)
    assert step_flops(learner, 2 * BATCH_SIZE) == {k: 2 * n for k, n in plain.items()}

    encoder = learner.encoder
    recomputed = step_flops(
        dataclasses.replace(learner, encoder=encoder.clone(remat=True)), BATCH_SIZE
    )
    patch_embedding = 2 * 2 * BATCH_SIZE * 32 * 32 * 3 * encoder.width
    forward = plain["target_encoder"]
    assert recomputed["online_encoder"] - plain["online_encoder"] == forward - patch_embedding

    method = dataclasses.replace(learner.method, frozen=())
    thawed = step_flops(dataclasses.replace(learner, method=method), BATCH_SIZE)
    assert thawed["online_encoder"] - plain["online_encoder"] == patch_embedding

    config.repre.enabled = False
    assert step_flops(tiny_learner(config), BATCH_SIZE)["decoder"] == 0
