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
    config.repre.taps = "0,1"
    learner = tiny_learner(config)
    params = random_state(learner).params
    images = np.random.default_rng(0).random((2, 16, 16, 3)).astype(np.float32)
    (painter,) = painters(learner.method, learner.repre).values()
    without = painted(learner.encoder, painter.without, params, images, seed=0)
    assert set(without) == {0, 1}
    inputs = encoder_input(learner.encoder, images)
    encode = jax.jit(lambda p, x: apply_with_taps(learner.encoder, {"params": p}, x, (0, 1))[1])
    decode = jax.jit(learner.repre.reconstruct)
    maps = encode(params["encoder"], inputs)
    for k, block in enumerate((0, 1)):
        replaced = list(maps)
        replaced[k] = jnp.zeros_like(maps[k]) + np.mean(maps[k], axis=(0, 1, 2))
        expected = decode(params["repre"], replaced)
        np.testing.assert_allclose(without[block], expected, atol=1e-4)
    assert np.abs(without[0] - decode(params["repre"], maps)).max() > 1e-3


def test_a_single_tap_has_nothing_to_be_without():
    config = tiny_config("simsiam")
    config.repre.taps = "single"
    config.model.depth = 4
    learner = tiny_learner(config)
    assert painters(learner.method, learner.repre)["reconstruction"].without is None


def test_keys_of_a_picture_are_those_of_the_runs_first_images():
    learner = tiny_learner(tiny_config("simsiam"))
    rows = np.arange(2, dtype=np.int32)
    expected = learner.keys({"index": rows, "epoch": 0 * rows}, np.int32(0))
    data = jax.tree.map(jax.random.key_data, expected)

    def paint(encoder, params, images, keys):
        return jax.tree.map(jax.random.key_data, keys)

    images = np.zeros((2, 16, 16, 3), np.float32)
    found = painted(learner.encoder, paint, {}, images, seed=learner.seed)
    jax.tree.map(np.testing.assert_array_equal, found, data)


def test_errors_are_of_what_was_hidden():
    images = np.zeros((1, 4, 4, 3), np.float32)
    shown = np.full((1, 4, 4, 3), 0.25, np.float32)
    shown[0, :2] = 3.0
    hidden = np.zeros((1, 4, 4), bool)
    hidden[0, 2:] = True
    (panel,) = error_panels(images, shown, hidden)
    assert panel.caption == "error 0.250"
    assert panel.pixels.max() == 1
