import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from benchmarks.flops import decoder_multiply_adds, encoder_multiply_adds, step_flops
from repre_jax.config_files import read_config
from repre_jax.models.repre_decoder import RePreDecoder
from repre_jax.models.swin import Swin
from repre_jax.models.vit import ViT
from repre_jax.training.learner import build_learner
from repre_jax.training.resolution import resolve
from repre_jax.training.step import loss_and_gradients

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
    [
        read_config("dino_vits:smoke"),
        read_config("moco_v3_vits:baseline,smoke"),
        read_config("moco_v2_vits:baseline,smoke"),
        read_config("simclr_swint:smoke"),
    ],
    ids=["dino_repre", "moco_v3_baseline", "moco_v2_one_view_each", "simclr_swin_repre"],
)
def test_formula_agrees_with_xla(config):
    learner = tiny_learner(config)
    # XLA also counts softmax, GELU and normalisation: 4 to 6 % of so narrow a model.
    ratio = count_by_xla(learner) / step_flops(learner, BATCH_SIZE)["total"]
    assert 1.0 <= ratio <= 1.07


def test_relative_positions_agree_with_xla():
    sizes = {"patch_size": 8, "width": 96, "depth": 2, "heads": 3, "image_size": 64}

    def by_xla(position):
        encoder = ViT(**sizes, position=position)
        images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
        params = jax.eval_shape(encoder.init, jax.random.key(0), images)
        return jax.jit(encoder.apply).lower(params, images).cost_analysis()["flops"]

    more = by_xla("relative") - by_xla("sincos")
    formula = [encoder_multiply_adds(ViT(**sizes, position=p), 64) for p in ("relative", "sincos")]
    # XLA also counts the addition to the logits, one for each of them.
    assert 1.0 <= more / (2 * (formula[0] - formula[1])) <= 1.05


def test_published_sizes():
    sizes = {"patch_size": 16, "depth": 12, "image_size": 224}
    small = encoder_multiply_adds(ViT(width=384, heads=6, **sizes), 224)
    base = encoder_multiply_adds(ViT(width=768, heads=12, **sizes), 224)
    assert small == pytest.approx(4.6e9, rel=0.01)  # DeiT (arXiv 2012.12877), table 5
    assert base == pytest.approx(17.6e9, rel=0.01)
    tiny = Swin(embed_width=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24))
    assert encoder_multiply_adds(tiny, 224) == pytest.approx(4.5e9, rel=0.01)  # arXiv 2103.14030


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
    formula = 2 * decoder_multiply_adds(decoder, [(4, 256)] * taps)
    # XLA also counts biases, ReLU, softmax and GELU.
    assert 1.0 <= by_xla / formula <= (1.06 if operator == "transformer" else 1.01)


def test_decoder_on_maps_that_halve_agrees_with_xla():
    decoder = RePreDecoder(operator="conv", layers=2, width=None, patch_size=4)
    sides = [(16, 32), (8, 64), (4, 128), (2, 256)]
    maps = [jax.ShapeDtypeStruct((1, side, side, c), jnp.float32) for side, c in sides]
    params = jax.eval_shape(decoder.init, jax.random.key(0), maps)
    by_xla = jax.jit(decoder.apply).lower(params, maps).cost_analysis()["flops"]
    # XLA also counts the upsampling, biases and ReLU.
    assert 1.0 <= by_xla / (2 * decoder_multiply_adds(decoder, sides)) <= 1.02


def test_what_costs_more_and_what_less():
    config = read_config("moco_v3_vits:smoke")
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
