"""MAE's pre-training against the official code: forward pass, gradients, three optimizer steps.

Recorded by golden/record_mae.py, with the noise that decides what is hidden given to both.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import from_torch_names, masked_cases, replay
from golden.compare import FOLDER, assert_close, assert_recorded_close
from golden.masked_cases import MAE_DECODER, MAE_RUN, MAE_VIT, STEPS, TABLE_RUN
from golden.weights import normalised

from repre_jax.losses.masked import patch_targets
from repre_jax.methods import mae
from repre_jax.models.pixels import patchify
from repre_jax.models.positions import sincos_2d
from repre_jax.schedules import LEARNING_RATE_SCHEDULES, Clock, WarmUp

GOLDEN = dict(np.load(FOLDER / "mae.npz"))
# A bias of the keys adds the same to every logit of a query: the softmax does not see it.
UNDETERMINED = ("qkv/bias/key",)


def config_of():
    config, images = replay.base_config(
        "mae",
        steps_per_epoch=MAE_RUN.steps_per_epoch,
        epochs=MAE_RUN.epochs,
        vit=MAE_VIT,
        batch=MAE_RUN.batch,
    )
    decoder = {"width": MAE_DECODER.width, "depth": MAE_DECODER.depth, "heads": MAE_DECODER.heads}
    config.method.update({f"decoder_{name}": value for name, value in decoder.items()})
    config.method.mask_ratio = masked_cases.MAE_MASK_RATIO
    replay.set_adamw(config, MAE_RUN)
    return config, images


def views(step):
    return {"global": masked_cases.mae_images(step)[:, None]}


@pytest.fixture(scope="module")
def learner():
    with pytest.MonkeyPatch.context() as patch:
        return replay.learner_of(*config_of(), patch)


@pytest.fixture(scope="module")
def first(learner):
    """(what the heads return, loss, its gradients) of the first step's batch."""
    params = from_torch_names.mae(masked_cases.mae_weights())
    images = jnp.asarray(normalised(masked_cases.mae_images(0)))
    noise = jnp.asarray(masked_cases.mae_noise(0))
    config = config_of()[0].method

    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(params):
        seen = mae.see(learner.encoder, params["encoder"], images, noise, config)
        painted = learner.method.heads.apply({"params": params["heads"]}, seen, train=True)
        per_example, _ = learner.method.loss(painted, None, {}, 0)
        return jnp.mean(per_example), (seen, painted)

    (value, outputs), gradients = jax.jit(loss)(params)
    return outputs, value, gradients


def test_what_is_hidden_and_what_is_seen(first):
    (seen, painted), _, _ = first
    np.testing.assert_array_equal(seen.shuffled.restore, GOLDEN["forward/ids_restore"])
    np.testing.assert_array_equal(painted.hidden, GOLDEN["forward/mask"].astype(bool))
    np.testing.assert_allclose(seen.tokens, GOLDEN["forward/latent"], atol=1e-4)


def test_prediction_target_and_loss(first):
    (_, painted), loss, _ = first
    np.testing.assert_allclose(painted.prediction, GOLDEN["forward/prediction"], atol=1e-4)
    np.testing.assert_allclose(painted.target, GOLDEN["forward/target"], atol=1e-4)
    assert float(loss) == pytest.approx(float(GOLDEN["forward/loss"]), abs=1e-5)


def test_loss_without_normalised_targets(learner, first):
    painted = first[0][1]
    patches = patchify(jnp.asarray(normalised(masked_cases.mae_images(0))), MAE_VIT.patch_size)
    plain = painted._replace(target=patch_targets(patches, per_patch=False))
    loss = jnp.mean(learner.method.loss(plain, None, {}, 0)[0])
    assert float(loss) == pytest.approx(float(GOLDEN["forward/loss_plain"]), abs=1e-5)


def test_gradients(first):
    recorded = from_torch_names.with_prefix(GOLDEN, "gradient/")
    weights, tree = masked_cases.mae_weights(), from_torch_names.mae
    assert_recorded_close(first[2], recorded, weights, tree, tolerance=1e-5)


def test_three_steps(monkeypatch):
    noise = jnp.asarray(np.stack([masked_cases.mae_noise(step) for step in range(STEPS)]))
    monkeypatch.setattr(replay.Learner, "keys", replay.keys_of_step)
    monkeypatch.setattr(mae, "draw_noise", lambda step, shape: replay.of_step(noise, step))
    params = from_torch_names.mae(masked_cases.mae_weights())
    history = replay.replay(*config_of(), params, views, monkeypatch)
    golden = from_torch_names.with_prefix(GOLDEN, "steps/")
    np.testing.assert_allclose(
        replay.column(history, "learning_rate"), golden["learning_rate"], rtol=2e-6
    )
    np.testing.assert_allclose(replay.column(history, "loss"), golden["loss"], atol=1e-5)
    norms = replay.total_gradient_norm(golden)
    np.testing.assert_allclose(replay.column(history, "grad_norm"), norms, rtol=1e-4)
    expected = from_torch_names.mae(from_torch_names.with_prefix(GOLDEN, "params/"))
    limits = {"undetermined": UNDETERMINED, "reach": 2 * golden["learning_rate"].sum()}
    assert_close(history[-1][0].params, expected, tolerance=1e-4, **limits)


def test_positions():
    side = masked_cases.SINCOS["side"]
    ours = sincos_2d((side, side), masked_cases.SINCOS["width"], columns_first=True)
    np.testing.assert_allclose(ours[0], GOLDEN["sincos"], atol=1e-6)


def test_learning_rate_of_a_whole_run():
    run, clock = TABLE_RUN, Clock(TABLE_RUN.steps_per_epoch, 35)
    warm_up = WarmUp(steps=clock.steps(run.warmup_epochs), start=0.0, end=run.end)
    schedule = LEARNING_RATE_SCHEDULES["moco_v3"](run.peak, clock, warm_up)
    np.testing.assert_allclose(
        replay.table(schedule, 35), GOLDEN["table/learning_rate"], rtol=1e-5, atol=1e-12
    )
