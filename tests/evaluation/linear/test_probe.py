"""Heads of linear probes against recordings of the papers' scripts, and against each other."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.cases_probe import (
    BATCH,
    BATCH_SIZE_OF_RATE,
    CLASSES,
    EPOCHS,
    PROTOCOLS,
    STEPS_PER_EPOCH,
    WIDTH,
    probe_features,
    probe_kernel,
)
from golden.compare import FOLDER
from jax.sharding import Mesh

from repre_jax.evaluation.frozen import frozen_features
from repre_jax.evaluation.linear.probe import (
    LinearProbe,
    compiled_step,
    head_losses,
    head_optimizer,
    in_chunks,
    linear_metrics,
)
from repre_jax.evaluation.linear.protocols import LINEAR_PROTOCOLS
from repre_jax.models import ViT
from repre_jax.models.pixels import encoder_input
from repre_jax.models.swin import build_swin
from repre_jax.schedules import Clock
from repre_jax.training import defaults

GOLDEN = dict(np.load(FOLDER / "linear.npz"))
TOTAL = EPOCHS * STEPS_PER_EPOCH


def probe_of(name, factors=(1.0,), seeds=1, encoder=None):
    protocol = LINEAR_PROTOCOLS[name]
    peak = protocol.learning_rate * BATCH_SIZE_OF_RATE / 256
    return LinearProbe(
        encoder=encoder,
        protocol=protocol,
        clock=Clock(STEPS_PER_EPOCH, TOTAL),
        classes=CLASSES,
        learning_rates=tuple(peak * factor for factor in factors),
        seeds=seeds,
        seed=0,
    )


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_step_is_that_of_the_papers_script(name):
    """The head between two others of other rates: nothing leaks from one to the next."""
    probe = probe_of(name, factors=(0.3, 1.0, 3.0))
    state = probe.init(WIDTH)
    kernels = jnp.broadcast_to(probe_kernel(), (3, WIDTH, CLASSES))
    state = state.replace(heads=state.heads | {"kernel": kernels})
    update = jax.jit(probe.update)
    for step in range(TOTAL):
        state, losses = update(state, *probe_features(step))
        for key in ("kernel", "bias"):
            theirs = GOLDEN[f"{name}/{key}"][step]
            scale = max(np.abs(theirs).max(), 1e-3)
            np.testing.assert_allclose(
                state.heads[key][1], theirs, atol=1e-5 * scale, err_msg=f"{key} {step}"
            )
        np.testing.assert_allclose(losses[1], GOLDEN[f"{name}/losses"][step], rtol=1e-5)
    for key, ours in state.statistics.items():
        np.testing.assert_allclose(ours, GOLDEN[f"{name}/{key}"], rtol=1e-5)


def test_larc_adapts_the_bias_too_but_for_its_first_step():
    """apex, LARC: p.grad *= trust |p| / |g| unless one of the norms is zero."""
    optimizer = head_optimizer(LINEAR_PROTOCOLS["simsiam"], 2.0)
    head = {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.zeros(2)}
    gradient = {"kernel": jnp.ones((2, 2)), "bias": jnp.asarray([3.0, 4.0])}
    state = optimizer.init(head)
    updates, state = optimizer.update(gradient, state, head)
    np.testing.assert_allclose(updates["kernel"], np.full((2, 2), -2 * 0.001 * 3.0), rtol=1e-6)
    np.testing.assert_allclose(updates["bias"], [-6.0, -8.0])
    head = jax.tree.map(jnp.add, head, updates)
    updates, _ = optimizer.update(gradient, state, head)
    adapted = 0.001 * 10 / 5 * np.array([3.0, 4.0])
    np.testing.assert_allclose(updates["bias"], -2 * (0.9 * np.array([3.0, 4.0]) + adapted))


@pytest.fixture(scope="module")
def vit():
    """(encoder of two blocks, of which drop path reaches the second; random parameters)."""
    encoder = ViT(patch_size=8, width=16, depth=2, heads=2, image_size=16)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    rng = np.random.default_rng(0)
    return encoder, jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)


@pytest.fixture
def crops():
    """A training batch as of the pipeline."""
    rng = np.random.default_rng(1)
    return {
        "global": rng.integers(0, 256, (BATCH, 1, 16, 16, 3), np.uint8),
        "label": rng.integers(0, CLASSES, BATCH).astype(np.int32),
        "index": np.arange(BATCH, dtype=np.int32),
        "epoch": np.zeros(BATCH, np.int32),
    }


def test_features_are_those_of_the_crops_or_their_mirror_images(vit, crops):
    """Of a network that stands still; nothing is done to the pixels or the features besides."""
    encoder, params = vit
    probe = probe_of("moco_v3", encoder=encoder)

    @jax.jit
    def both(params, batch, step):
        pixels = batch["global"][:, 0].astype(jnp.float32) / 255
        plain = [
            frozen_features(encoder, params, encoder_input(encoder, x), "pooled")
            for x in (pixels, pixels[:, :, ::-1])
        ]
        return probe.features(params, batch, step), plain

    features, plain = both(params, crops, 0)
    is_plain, is_mirrored = (np.abs(features - x).max(axis=1) < 1e-4 for x in plain)
    assert (is_plain ^ is_mirrored).all()
    assert 0.2 < is_mirrored.mean() < 0.8
    np.testing.assert_array_equal(both(params, crops, 1)[0], features)


def test_drop_path_acts_on_training_features_and_a_step_takes_them(vit, crops):
    """MoBY: the frozen network runs in training mode, another one in every step."""
    encoder, params = vit
    probe = probe_of("moby", encoder=encoder)
    warm = probe.clock.steps(probe.protocol.warmup_epochs)  # where the rate is at its peak
    still = dataclasses.replace(probe, protocol=dataclasses.replace(probe.protocol, drop_path=0.0))

    @jax.jit
    def features_of(params, batch):
        moving = [probe.features(params, batch, step) for step in (warm, warm, warm + 1)]
        return moving, still.features(params, batch, warm)

    moving, plain = features_of(params, crops)
    np.testing.assert_array_equal(moving[0], moving[1])
    assert np.abs(moving[0] - moving[2]).max() > 0.01
    # In every row, for a branch that is kept is scaled.
    assert np.abs(moving[0] - plain).max(axis=1).min() > 0.01
    state = probe.init(encoder.width).replace(step=jnp.int32(warm))
    expected, losses = jax.jit(probe.update)(state, moving[0], crops["label"])
    mesh = Mesh(np.array(jax.devices()[:1]), ("batch",))
    validation = in_chunks(np.asarray(plain), crops["label"], mesh)
    taken, metrics = compiled_step(probe, mesh)(params, state, crops, validation)
    np.testing.assert_allclose(metrics["loss"], losses[0], rtol=1e-5)
    for part in ("heads", "opt_state"):
        trees = (jax.tree.leaves(getattr(x, part)) for x in (taken, expected))
        for ours, theirs in zip(*trees, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_unknown_labels_do_not_count():
    features, labels = probe_features(0)
    heads = {"kernel": probe_kernel()[None], "bias": np.zeros((1, CLASSES), np.float32)}
    expected = head_losses(heads, features[:10], labels[:10], 0.1)
    some_unknown = np.where(np.arange(len(labels)) < 10, labels, -1)
    np.testing.assert_allclose(head_losses(heads, features, some_unknown, 0.1), expected, rtol=1e-6)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("name", ["dino", "mae"])
def test_hits_are_counted_exactly_for_a_partial_last_batch(name, devices):
    probe = probe_of(name, seeds=3)
    state = probe.init(WIDTH).replace(step=jnp.int32(2 * STEPS_PER_EPOCH))
    rng = np.random.default_rng(0)
    features = rng.normal(size=(1031, WIDTH)).astype(np.float32)
    labels = rng.integers(CLASSES, size=1031).astype(np.int32)
    mesh = Mesh(np.array(jax.devices()[:devices]), ("batch",))
    hits = jax.jit(probe.note_hits)(state, *in_chunks(features, labels, mesh)).hits
    for head in range(3):
        logits = features @ np.asarray(state.heads["kernel"][head])
        ranking = np.argsort(-logits, axis=1, kind="stable")
        first = np.sum(ranking[:, 0] == labels)
        among_five = np.sum(ranking[:, :5] == labels[:, None])
        assert hits[1, head].tolist() == [first, among_five]
    assert not hits[0].any() and not hits[2:].any()


def test_a_head_that_diverged_is_never_right():
    probe = probe_of("dino", seeds=2)
    state = probe.init(WIDTH).replace(step=jnp.int32(STEPS_PER_EPOCH))
    kernel = state.heads["kernel"].at[1].set(jnp.nan)
    state = state.replace(heads=state.heads | {"kernel": kernel})
    features, labels = probe_features(0)
    mesh = Mesh(np.array(jax.devices()[:1]), ("batch",))
    hits = probe.note_hits(state, *in_chunks(features, labels, mesh)).hits[0]
    assert hits[0, 1] > 0 and not hits[1].any()


def test_groups_of_rates_share_their_kernels_and_seeds_do_not():
    kernels = probe_of("dino", factors=(1.0, 2.0), seeds=3).init(WIDTH).heads["kernel"]
    np.testing.assert_array_equal(kernels[:3], kernels[3:])
    assert np.abs(kernels[0] - kernels[1]).max() > 0.001


def test_numbers_are_those_of_the_rate_that_ends_best():
    probe = probe_of("dino", factors=(1.0, 2.0), seeds=2)
    accuracies = np.zeros((EPOCHS, 4, 2))
    accuracies[1, :2] = 0.9  # the first rate is better once, the second in the end
    accuracies[-1, :, 0] = (0.5, 0.5, 0.6, 0.8)
    numbers = linear_metrics(probe, accuracies)
    assert numbers["learning_rate"] == pytest.approx(2 * 0.004)
    assert numbers["last"]["top1"] == pytest.approx(0.7)
    assert numbers["last"]["top1_std"] == pytest.approx(0.2 / 2**0.5)  # of the sample
    assert [rate["best"] for rate in numbers["by_learning_rate"]] == pytest.approx([0.9, 0.7])


def test_dinos_feature_depends_on_the_encoder(model_config):
    protocol = LINEAR_PROTOCOLS["dino"]
    sizes = {"patch_size": 16, "image_size": 224, "depth": 12}
    assert protocol.feature_of(ViT(width=384, heads=6, **sizes)) == "last_4"
    assert protocol.feature_of(ViT(width=768, heads=12, **sizes)) == "class_and_mean"
    assert protocol.feature_of(build_swin(model_config, jnp.float32)) == "last_4"


@pytest.fixture
def model_config():
    config = defaults.get_config("dino").model
    config.update({"name": "swin_tiny", "patch_size": 4})
    return config
