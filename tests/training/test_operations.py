"""Multiply-adds counted in a traced program: closed forms, published sizes, XLA's own count."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from repre_jax.config_files import read_config
from repre_jax.models.swin import Swin
from repre_jax.models.vit import ViT
from repre_jax.training.learner import build_learner
from repre_jax.training.operations import multiply_adds, step_multiply_adds
from repre_jax.training.resolution import resolve


def encoder_multiply_adds(encoder, side):
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    params = jax.eval_shape(encoder.init, jax.random.key(0), images)
    return multiply_adds(encoder.apply, params, images)


def test_published_sizes():
    sizes = {"patch_size": 16, "depth": 12, "image_size": 224}
    small = encoder_multiply_adds(ViT(width=384, heads=6, **sizes), 224)
    base = encoder_multiply_adds(ViT(width=768, heads=12, **sizes), 224)
    assert small == pytest.approx(4.6e9, rel=0.01)  # DeiT (arXiv 2012.12877), table 5
    assert base == pytest.approx(17.6e9, rel=0.01)
    tiny = Swin(embed_width=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24))
    # arXiv 2103.14030; the choice of relative positions, a product here, adds 1 %.
    assert encoder_multiply_adds(tiny, 224) == pytest.approx(4.5e9, rel=0.015)


def test_products_loops_and_recomputation():
    x = np.zeros((3, 5), np.float32)
    w = np.zeros((5, 5), np.float32)
    assert multiply_adds(lambda x, w: x @ w, x, w) == 3 * 5 * 5
    loop = lambda x, w: jax.lax.scan(lambda c, _: (c @ w, None), x, length=7)  # noqa: E731
    assert multiply_adds(loop, x, w) == 7 * 3 * 5 * 5

    def loss(w, block):
        return jnp.sum(jnp.sin(block(x, w)))

    block = lambda x, w: jnp.sin(x @ w) @ w  # noqa: E731
    plain = multiply_adds(jax.grad(functools.partial(loss, block=block)), w)
    again = multiply_adds(jax.grad(functools.partial(loss, block=jax.checkpoint(block))), w)
    assert plain == 5 * 75  # two forward, three backward: x needs no gradient
    assert again == plain + 75  # the first product once more; nothing needs the second


@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_and_their_gradients_are_counted_as_xla_does(stride):
    image, kernel = np.zeros((2, 8, 8, 3), np.float32), np.zeros((3, 3, 3, 4), np.float32)

    def convolution(image, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            image, kernel, (stride, stride), "SAME", dimension_numbers=numbers
        )

    def gradients(image, kernel):
        loss = lambda *x: jnp.sum(jnp.square(convolution(*x)))  # noqa: E731
        return jax.grad(loss, argnums=(0, 1))(image, kernel)

    for function in (convolution, gradients):
        by_xla = jax.jit(function).lower(image, kernel).cost_analysis()["flops"]
        assert by_xla / (2 * multiply_adds(function, image, kernel)) == pytest.approx(1, abs=0.01)


def test_what_a_step_costs():
    """A frozen patch embedding, a target network, accumulation and remat, in one recipe."""

    def cost(**changes):
        config = read_config("moco_v3_vits:smoke,baseline")
        config.model.depth = 2
        config.update_from_flattened_dict(changes)
        return step_multiply_adds(build_learner(config, resolve(config, images=64, devices=1)), 16)

    plain, side, width, views = cost(), 32, 128, 2
    embedding = 16 * views * side**2 * 3 * width
    thawed = cost(**{"method.freeze_patch_embedding": False})
    assert thawed - plain == embedding
    forward = encoder_multiply_adds(
        ViT(patch_size=8, width=width, depth=2, heads=4, image_size=side), side
    )
    blocks = 16 * views * forward - embedding
    accumulated = cost(**{"train.accumulate": 2})
    assert accumulated - plain == pytest.approx(16 * views * forward, rel=1e-6)
    # The last product of a block need not be made again.
    again = cost(**{"model.remat": True}) - plain
    assert again == pytest.approx(blocks * 2 / 3, rel=0.02)
