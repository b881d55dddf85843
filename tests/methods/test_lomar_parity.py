"""LoMaR's pre-training against the released code, with its pairing of images and windows.

Recorded by golden/record_lomar_pretrain.py: forward pass, gradients, three optimizer steps, with
windows and masks given to both.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import from_torch_names, masked_cases, replay
from golden.compare import FOLDER, assert_close, assert_recorded_close
from golden.masked_cases import LOMAR_RUN, LOMAR_VIT, LOMAR_WINDOW, LOMAR_WINDOWS, STEPS
from golden.weights import normalised

from repre_jax.methods import windows
from repre_jax.models.masking import least, share_of

GOLDEN = dict(np.load(FOLDER / "lomar_pretrain.npz"))
UNDETERMINED = ("qkv/bias/key",)  # see test_mae_parity.py
BATCH = LOMAR_RUN.batch


def config_of():
    config, images = replay.base_config(
        "lomar",
        steps_per_epoch=LOMAR_RUN.steps_per_epoch,
        epochs=LOMAR_RUN.epochs,
        vit=LOMAR_VIT,
        batch=BATCH,
    )
    config.method.update({"windows": LOMAR_WINDOWS, "side": LOMAR_WINDOW, "pairing": "released"})
    config.method.mask_ratio = masked_cases.LOMAR_MASK_RATIO
    replay.set_adamw(config, LOMAR_RUN)
    return config, images


def drawn(step):
    """The recorded windows and masks of a step, by image."""
    rows, columns = (
        windows.released(jnp.asarray(places), BATCH) for places in masked_cases.lomar_corners(step)
    )
    count = share_of(LOMAR_WINDOW**2, masked_cases.LOMAR_MASK_RATIO)
    masked = least(jnp.asarray(masked_cases.lomar_noise(step)), count)
    return windows.Windows(rows, columns, by_image(masked.reshape(BATCH * LOMAR_WINDOWS, -1)))


def by_image(rows):
    """[B * M, ...], row r of image r mod B -> [B, M, ...]."""
    return jnp.swapaxes(rows.reshape(LOMAR_WINDOWS, BATCH, *rows.shape[1:]), 0, 1)


@pytest.fixture(scope="module")
def first():
    """(encoded windows, what the heads return, loss, its gradients) of the first step's batch."""
    with pytest.MonkeyPatch.context() as patch:
        learner = replay.learner_of(*config_of(), patch)
    images = jnp.asarray(normalised(masked_cases.lomar_images(0)))
    method = learner.method

    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(params):
        mask_token = params["tokens"]["mask"]
        encoded = windows.encode_windows(
            learner.encoder, params["encoder"], mask_token, images, drawn(0), LOMAR_WINDOW
        )
        painted = method.heads.apply({"params": params["heads"]}, encoded, train=True)
        return jnp.mean(method.loss(painted, None, {}, 0)[0]), (encoded, painted)

    params = from_torch_names.lomar(masked_cases.lomar_weights())
    (value, (encoded, painted)), gradients = jax.jit(loss)(params)
    return encoded, painted, value, gradients


def test_pairing_of_the_released_code():
    image, window = GOLDEN["forward/image_of_row"], GOLDEN["forward/window_of_row"]
    np.testing.assert_array_equal(by_image(image)[:, 0], np.arange(BATCH))
    ours = windows.released(jnp.arange(LOMAR_WINDOWS), BATCH)
    np.testing.assert_array_equal(ours, by_image(window))
    # 6 images and 4 windows: each image has two of them, twice.
    assert [len(set(row)) for row in np.asarray(ours)] == [2] * BATCH
    corners = np.stack(drawn(0)[:2], axis=-1)
    np.testing.assert_array_equal(corners, by_image(GOLDEN["forward/corner_of_row"]))


def test_forward_pass(first):
    encoded, painted, loss, _ = first
    np.testing.assert_array_equal(encoded.masked, by_image(GOLDEN["forward/mask"]).astype(bool))
    latent = by_image(GOLDEN["forward/latent"])[:, :, 1:]
    np.testing.assert_allclose(encoded.tokens, latent, atol=1e-4)
    np.testing.assert_allclose(
        painted.prediction, by_image(GOLDEN["forward/prediction"]), atol=1e-4
    )
    np.testing.assert_allclose(painted.target, by_image(GOLDEN["forward/target"]), atol=1e-4)
    assert float(loss) == pytest.approx(float(GOLDEN["forward/loss"]), abs=1e-5)


def test_gradients(first):
    recorded = from_torch_names.with_prefix(GOLDEN, "gradient/")
    weights, tree = masked_cases.lomar_weights(), from_torch_names.lomar
    assert_recorded_close(first[3], recorded, weights, tree, tolerance=1e-5)


def test_three_steps(monkeypatch):
    table = jax.tree.map(lambda *x: jnp.stack(x), *(drawn(step) for step in range(STEPS)))
    monkeypatch.setattr(replay.Learner, "keys", replay.keys_of_step)

    def draw(keys, grid, config):
        return replay.of_step(table, keys.examples)

    monkeypatch.setattr(windows, "draw", draw)
    params = from_torch_names.lomar(masked_cases.lomar_weights())
    history = replay.replay(
        *config_of(),
        params,
        lambda step: {"global": masked_cases.lomar_images(step)[:, None]},
        monkeypatch,
    )
    golden = from_torch_names.with_prefix(GOLDEN, "steps/")
    rates = replay.column(history, "learning_rate")
    np.testing.assert_allclose(rates, golden["learning_rate"], rtol=2e-6)
    np.testing.assert_allclose(replay.column(history, "loss"), golden["loss"], atol=1e-5)
    norms = replay.total_gradient_norm(golden)
    np.testing.assert_allclose(replay.column(history, "grad_norm"), norms, rtol=1e-4)
    expected = from_torch_names.lomar(from_torch_names.with_prefix(GOLDEN, "params/"))
    limits = {"undetermined": UNDETERMINED, "reach": 2 * golden["learning_rate"].sum()}
    assert_close(history[-1][0].params, expected, tolerance=1e-4, **limits)
