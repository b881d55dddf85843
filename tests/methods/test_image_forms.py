"""Methods on images that are no squares of RGB: shapes, masks, windows and pictures."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import BATCH, STEPS_PER_EPOCH, random_keys, random_state, random_views, tiny_config

from repre_jax.methods import windows
from repre_jax.methods.method import Keys
from repre_jax.training.learner import build_learner, remarks
from repre_jax.training.resolution import resolve
from repre_jax.training.step import loss_and_gradients
from repre_jax.visualize.reconstructions import painters

SIZE, CHANNELS = (32, 48), 2


def learner_of(method, **model):
    config = tiny_config(method)
    config.model.update({"image_size": SIZE, "channels": CHANNELS} | model)
    config.data.update({"mean": (0.5, 0.4), "std": (0.2, 0.3)})
    return build_learner(config, resolve(config, images=STEPS_PER_EPOCH * BATCH, devices=1))


@pytest.mark.parametrize("method", ["dino", "mae", "lomar", "lomar_tokens"])
def test_losses_and_pictures_have_their_shapes(method):
    learner = learner_of(method)
    views, keys = random_views(learner), random_keys(learner)
    assert views["global"].shape[2:] == (*SIZE, CHANNELS)
    state = learner.shapes
    step = functools.partial(loss_and_gradients, learner)
    gradients = jax.eval_shape(step, state, views, keys)
    assert jax.tree.leaves(gradients)
    images = jnp.asarray(views["global"][:, 0])
    for painter in painters(learner.method, learner.repre).values():
        paint = functools.partial(painter.paint, learner.encoder)
        picture = jax.eval_shape(paint, state.params, images, keys)
        assert picture.painted.shape == picture.seen.shape == images.shape
        assert picture.hidden.shape == images.shape[:-1]


def test_windows_lie_anywhere_in_a_rectangle():
    config = tiny_config("lomar").method
    config.update({"windows": 1, "side": 3})
    keys = Keys(jax.random.split(jax.random.key(0), 400), jax.random.key(1))
    drawn = windows.draw(keys, (4, 9), config)
    assert set(np.unique(drawn.rows)) == {0, 1}
    assert set(np.unique(drawn.columns)) == set(range(7))
    last = windows.places(windows.Windows(jnp.array([[1]]), jnp.array([[6]]), None), 9, 3)
    np.testing.assert_array_equal(last[0, 0], [15, 16, 17, 24, 25, 26, 33, 34, 35])


def test_a_masked_picture_of_a_rectangle_keeps_what_was_seen():
    learner = learner_of("mae")
    images = jnp.asarray(random_views(learner)["global"][:, 0])
    paint = jax.jit(functools.partial(learner.method.painter.paint, learner.encoder))
    picture = paint(random_state(learner).params, images, random_keys(learner))
    shown = ~np.asarray(picture.hidden)
    np.testing.assert_array_equal(np.asarray(picture.painted)[shown], np.asarray(images)[shown])
    assert 0 < shown.mean() < 1


def test_colours_that_are_none_are_told():
    config = tiny_config("dino")
    resolution = resolve(config, images=STEPS_PER_EPOCH * BATCH, devices=1)
    said = " ".join(remarks(resolution, learner_of("dino")))
    assert "Of images of 2 channel(s), colour jitter changes brightness and contrast alone" in said
    assert "colour jitter" not in " ".join(remarks(resolution, build_learner(config, resolution)))
    assert "colour jitter" not in " ".join(remarks(resolution, learner_of("mae")))
