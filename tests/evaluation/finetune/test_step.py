"""The fine-tuning step against three of MAE's and of LoMaR's, on one device and on eight."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import from_torch_names
from golden.compare import FOLDER, assert_close
from golden.finetune_cases import (
    LOMAR_VIT,
    MAE_RUN,
    MAE_VIT,
    POSITION_SIDES,
    finetune_batch,
    lomar_weights,
    mae_weights,
)
from golden.from_torch_names import with_prefix
from golden.weights import vit_shapes, weight

from repre_jax.data.device.augment import augment_views
from repre_jax.data.device.erasing import erase
from repre_jax.data.device.mixing import cutmix_weights, mix, mix_images, soft_targets
from repre_jax.evaluation.finetune.recipes import RECIPES, mixing_of, views_of, with_changes
from repre_jax.evaluation.finetune.step import (
    augmented,
    build_finetuner,
    finetune_step,
    finetuned_encoder,
    initial_state,
    update,
)
from repre_jax.models import Swin, ViT
from repre_jax.models.pixels import IMAGENET, normalise
from repre_jax.models.positions import resize_learned_positions, sincos_2d
from repre_jax.schedules import Clock
from repre_jax.sharding import by_row, make_mesh, replicated

GOLDEN = dict(np.load(FOLDER / "finetune.npz")) | dict(np.load(FOLDER / "lomar.npz"))
VIT = ViT(**dataclasses.asdict(MAE_VIT))
RELATIVE_VIT = ViT(**dataclasses.asdict(LOMAR_VIT), position="relative")
# The gradient of the keys' biases is zero but for rounding: softmax does not see them.
UNDETERMINED = ("qkv/bias/key",)
MAE = with_changes(
    RECIPES["mae"],
    {
        "batch_size": MAE_RUN.batch,
        "learning_rate": MAE_RUN.learning_rate * 256 / MAE_RUN.batch,
        "warmup_epochs": MAE_RUN.warmup_epochs,
        "layer_decay": MAE_RUN.layer_decay,
        "drop_path": 0.0,
    },
)
CLOCK = Clock(MAE_RUN.steps_per_epoch, MAE_RUN.epochs * MAE_RUN.steps_per_epoch)


def compiled(function):
    """Jitted with few optimisations: these tests pay for the compilation, not for the steps."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def params_of(state) -> dict:
    """Our tree of MAE's names; the encoder's own norm, which nothing reads, is the identity."""
    width = len(state["fc_norm.weight"])
    norm = {"norm.weight": np.ones(width, np.float32), "norm.bias": np.zeros(width, np.float32)}
    return {"encoder": from_torch_names.encoder({**state, **norm})} | from_torch_names.classifier(
        state
    )


def parts_of(recipe, encoder=VIT):
    """Static parts, and random weights for a fresh head to stand on."""
    images = jnp.zeros((1, encoder.image_size, encoder.image_size, 3))
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), images)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: 0.1 * rng.normal(size=x.shape).astype(np.float32), shapes)
    classes = MAE_RUN.classes
    return build_finetuner(encoder, recipe, params, classes=classes, clock=CLOCK, seed=0), params


def finetuner_of(recipe, encoder=VIT):
    """Static parts, and the state of a fresh head on random weights."""
    finetuner, params = parts_of(recipe, encoder)
    return finetuner, compiled(functools.partial(initial_state, finetuner))(params)


def random_batch(size, rows=8, seed=0) -> dict:
    """As of the pipeline."""
    rng = np.random.default_rng(seed)
    return {
        "global": rng.integers(0, 256, (rows, 1, size, size, 3), np.uint8),
        "label": rng.integers(0, MAE_RUN.classes, rows).astype(np.int32),
        "index": np.arange(rows, dtype=np.int32),
        "epoch": np.zeros(rows, np.int32),
    }


@pytest.fixture(scope="module")
def mae():
    """(static parts, a state at step 0, the compiled step)."""
    finetuner, state = finetuner_of(MAE)
    return finetuner, state, compiled(functools.partial(update, finetuner))


@pytest.fixture(scope="module", params=["mae", pytest.param("lomar", marks=pytest.mark.slow)])
def recorded_run(request):
    """(name, logits before, losses, rates, parameters after) of the three recorded steps."""
    name = request.param
    if name == "mae":
        finetuner, state, step = request.getfixturevalue("mae")
        official, size = mae_weights(), MAE_VIT.image_size
    else:
        finetuner, state = finetuner_of(MAE, RELATIVE_VIT)
        step = compiled(functools.partial(update, finetuner))
        official, size = lomar_weights(), LOMAR_VIT.image_size
    state = state.replace(params=jax.tree.map(jnp.asarray, params_of(official)))
    logits, losses, rates = None, [], []
    for number in range(3):
        images, labels = (jnp.asarray(x) for x in finetune_batch(number, size))
        if logits is None:
            logits = compiled(finetuner.logits)(state.params, images)
        drawn = {key: GOLDEN[f"{name}/{number}/{key}"] for key in ("cut", "share", "centre")}
        pixels, share = jnp.full(images.shape[1:3], drawn["share"]), drawn["share"]
        if drawn["cut"]:
            pixels = cutmix_weights(images.shape[1:3], share, drawn["centre"])
            share = pixels.mean()
        targets = soft_targets(labels, share, classes=MAE_RUN.classes, smoothing=0.1)
        state, metrics = step(state, mix_images(images, pixels), targets)
        losses.append(float(metrics["loss"]))
        rates.append(float(metrics["learning_rate"]))
    return name, logits, losses, rates, state.params


def test_official_logits_losses_and_rates(recorded_run):
    name, logits, losses, rates, _ = recorded_run
    np.testing.assert_allclose(logits, GOLDEN[f"{name}/logits"], atol=1e-4)
    np.testing.assert_allclose(losses, GOLDEN[f"{name}/losses"], atol=1e-5)
    np.testing.assert_allclose(rates, GOLDEN[f"{name}/rates"], rtol=1e-5)


def test_official_parameters_after_three_steps(recorded_run):
    name, *_, ours = recorded_run
    theirs = params_of(with_prefix(GOLDEN, f"{name}/params/"))
    reach = 2 * GOLDEN[f"{name}/rates"].sum()
    assert_close(ours, theirs, tolerance=1e-4, undetermined=UNDETERMINED, reach=reach)


@pytest.mark.parametrize("side", POSITION_SIDES)
def test_positions_are_resized_as_maes(side):
    shape = vit_shapes(MAE_VIT, learned_positions=True)["pos_embed"]
    ours = resize_learned_positions(weight("pos_embed", shape), (4, 4), (side, side))
    np.testing.assert_allclose(ours, GOLDEN[f"positions/{side}"], atol=1e-5)


def test_fixed_positions_become_parameters_of_the_new_grid():
    encoder, params = finetuned_encoder(
        VIT.clone(position="sincos", remat="block"),
        {"norm": {}},
        image_size=48,
        drop_path=0.2,
        remat="none",
    )
    assert (encoder.position, encoder.image_size, encoder.drop_path) == ("learned", 48, 0.2)
    assert encoder.remat == "none", "not that of the pre-training"
    np.testing.assert_array_equal(params["position_embedding"], sincos_2d((6, 6), VIT.width))


def test_relative_positions_fit_every_grid():
    params = {"norm": {}}
    changes = {"image_size": 96, "drop_path": 0.2, "remat": "block"}
    encoder, same = finetuned_encoder(RELATIVE_VIT, params, **changes)
    assert (encoder.position, encoder.drop_path, encoder.remat) == ("relative", 0.2, "block")
    assert same is params


def test_swin_keeps_its_windows():
    swin = Swin(8, (1, 1, 1, 1), (1, 1, 1, 1), window=2, image_size=32)
    encoder, _ = finetuned_encoder(swin, {}, image_size=64, drop_path=0.2, remat="none")
    assert (encoder.image_size, encoder.drop_path) == (32, 0.2)


def test_images_are_flipped_then_erased_then_mixed(mae):
    """The parts put together once more, on normalised images and with the draws' own keys."""
    finetuner, step = mae[0], 5
    batch = random_batch(MAE_VIT.image_size, rows=16)
    classes = finetuner.head.classes

    def key_of(name, **options):
        return jax.random.fold_in(jax.random.key(0, **options), int.from_bytes(name, "big"))

    def erased(epoch, index, image):
        root = key_of(b"eras", impl="threefry2x32")
        key = jax.random.fold_in(jax.random.fold_in(root, epoch), index)
        return erase(key, image, MAE.erasing_probability)

    @compiled
    def both(batch):
        flipped = augment_views(batch, views_of(MAE), 0)["global"][:, 0]
        whole = normalise(flipped, IMAGENET)
        images = jax.vmap(erased)(batch["epoch"], batch["index"], whole)
        key = jax.random.fold_in(key_of(b"mixu"), step)
        mixed = mix(key, images, batch["label"], mixing_of(MAE), classes=classes)
        return augmented(finetuner, batch, jnp.int32(step)), (flipped, whole, images, mixed)

    (images, targets), (flipped, whole, holed, (mixed, soft)) = both(batch)
    np.testing.assert_allclose(images, mixed, atol=1e-5)
    np.testing.assert_allclose(targets, soft, atol=1e-6)
    # None of the parts is idle here.
    pixels = batch["global"][:, 0].astype(np.float32) / 255
    changes = {"flip": (flipped, pixels), "erase": (holed, whole), "mix": (mixed, holed)}
    for name, pair in changes.items():
        rows = np.abs(np.subtract(*pair)).reshape(len(pixels), -1).max(axis=1) > 1e-3
        assert rows.any() and (rows.all() == (name == "mix")), name


def test_drop_path_acts_on_the_loss_alike_on_one_device_and_eight():
    """Anew in every step. Of the loss alone, so that no gradient is compiled."""
    encoder = ViT(patch_size=8, width=16, depth=2, heads=2, image_size=16, drop_path=0.5)
    finetuner, state = finetuner_of(dataclasses.replace(MAE, head_deviation=1.0), encoder)
    images = np.random.default_rng(0).normal(size=(8, 16, 16, 3)).astype(np.float32)
    targets = np.eye(MAE_RUN.classes, dtype=np.float32)[np.arange(8) % MAE_RUN.classes]

    @compiled
    def losses(state, images, targets):
        states = [state.replace(step=jnp.int32(step)) for step in (0, 1)]
        drawn = [update(finetuner, x, images, targets)[1]["loss"] for x in states]
        log_shares = jax.nn.log_softmax(finetuner.logits(state.params, images))
        return jnp.stack([*drawn, -jnp.mean(jnp.sum(targets * log_shares, axis=1))])

    one, eight = (
        losses(
            jax.device_put(state, replicated(make_mesh(devices))),
            *jax.device_put((images, targets), by_row(make_mesh(devices))),
        )
        for devices in (1, 8)
    )
    np.testing.assert_allclose(one, eight, rtol=1e-5)
    assert np.diff(np.sort(one)).min() > 0.01


@pytest.mark.slow
def test_one_device_is_eight_and_the_average_follows():
    recipe = dataclasses.replace(MAE, average_decay=0.9, warmup_epochs=0)
    # One block, which never drops: the compilation is what this test pays for.
    finetuner, state = finetuner_of(recipe, VIT.clone(depth=1))
    batch = random_batch(MAE_VIT.image_size)
    results = []
    for devices in (1, 8):
        mesh = make_mesh(devices)
        step = compiled(functools.partial(finetune_step, finetuner))
        results.append(
            step(jax.device_put(state, replicated(mesh)), jax.device_put(batch, by_row(mesh)))
        )
    (one, metrics), (eight, others) = jax.device_get(results)
    np.testing.assert_allclose(metrics["loss"], others["loss"], rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], others["grad_norm"], rtol=1e-4)
    reach = 2 * metrics["learning_rate"]
    assert_close(one.params, eight.params, tolerance=1e-5, undetermined=UNDETERMINED, reach=reach)
    expected = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, state.params, one.params)
    assert_close(one.average, expected, tolerance=1e-6)


def test_a_step_that_is_not_finite_changes_nothing(mae):
    _, state, step = mae
    images = jnp.full((MAE_RUN.batch, MAE_VIT.image_size, MAE_VIT.image_size, 3), jnp.nan)
    targets = jnp.full((MAE_RUN.batch, MAE_RUN.classes), 1 / MAE_RUN.classes)
    after, _ = step(state, images, targets)
    assert (int(after.step), int(after.nonfinite_in_a_row)) == (1, 1)
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)
    jax.tree.map(np.testing.assert_array_equal, after.opt_state, state.opt_state)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds_on_both_backbones(name):
    """Shapes only: the head reads the pooled feature or has a norm of its own."""
    swin = Swin(8, (2, 1, 1, 1), (1, 2, 2, 2), window=2, image_size=32)
    for encoder in (VIT, swin):
        finetuner, params = parts_of(RECIPES[name], encoder)
        state = jax.eval_shape(functools.partial(initial_state, finetuner), params)
        assert ("norm" in state.params) == (RECIPES[name].pooling == "tokens")
        assert bool(state.average) == (RECIPES[name].average_decay > 0)
        logits = jax.eval_shape(finetuner.logits, state.params, jnp.zeros((2, 32, 32, 3)))
        assert logits.shape == (2, MAE_RUN.classes)
        assert logits.dtype == jnp.float32
