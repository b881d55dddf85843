"""Reconstructions: what is painted, and what is lost without a tap."""

import jax
import jax.numpy as jnp
import numpy as np
from tiny import random_state, tiny_config, tiny_learner

from repre_jax.models.pixels import encoder_input
from repre_jax.models.taps import apply_with_taps
from repre_jax.visualize.reconstructions import error_panels, painted, painters


def test_without_a_tap_its_map_is_the_mean_over_images_and_places():
    config = tiny_config("simsiam")
    config.repre.taps = "1,3"
    learner = tiny_learner(config)
    params = random_state(learner).params
    images = np.random.default_rng(0).random((2, 16, 16, 3)).astype(np.float32)
    (painter,) = painters(learner.method, learner.repre).values()
    without = painted(learner.encoder, painter.without, params, images, seed=0)
    assert set(without) == {1, 3}
    inputs = encoder_input(learner.encoder, images)
    _, maps = apply_with_taps(learner.encoder, {"params": params["encoder"]}, inputs, (1, 3))
    for k, block in enumerate((1, 3)):
        replaced = list(maps)
        replaced[k] = jnp.zeros_like(maps[k]) + np.mean(maps[k], axis=(0, 1, 2))
        expected = learner.repre.reconstruct(params["repre"], replaced)
        np.testing.assert_allclose(without[block], expected, atol=1e-4)
    whole = painted(learner.encoder, painter.paint, params, images, seed=0)
    assert np.abs(without[1] - whole.painted).max() > 1e-3


def test_a_single_tap_has_nothing_to_be_without():
    config = tiny_config("simsiam")
    config.repre.taps = "single"
    learner = tiny_learner(config)
    assert painters(learner.method, learner.repre)["reconstruction"].without is None


def test_what_is_hidden_is_a_matter_of_the_seed():
    """As in training: the keys of a picture are those of the run's first images."""
    learner = tiny_learner(tiny_config("lomar"))
    params = random_state(learner).params
    images = np.random.default_rng(0).random((2, 32, 32, 3)).astype(np.float32)
    (painter,) = painters(learner.method, learner.repre).values()
    first = painted(learner.encoder, painter.paint, params, images, seed=learner.seed)
    rows = np.arange(2, dtype=np.int32)
    keys = learner.keys({"index": rows, "epoch": 0 * rows}, np.int32(0))
    paint = jax.jit(lambda *x: painter.paint(learner.encoder, *x))
    np.testing.assert_array_equal(first.hidden, paint(params, images, keys).hidden)


def test_errors_are_of_what_was_hidden():
    images = np.zeros((1, 4, 4, 3), np.float32)
    shown = np.full((1, 4, 4, 3), 0.25, np.float32)
    shown[0, :2] = 3.0
    hidden = np.zeros((1, 4, 4), bool)
    hidden[0, 2:] = True
    (panel,) = error_panels(images, shown, hidden)
    assert panel.caption == "error 0.250"
    assert panel.pixels.max() == 1
