"""The step: one device as eight, accumulation, skipped steps, what moves and what does not."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from steps import assert_agree, bits, measure, outcome, plain_views
from tiny import (
    BATCH,
    STEPS_PER_EPOCH,
    WIDTH,
    equations,
    paths,
    random_keys,
    random_pixels,
    random_state,
    random_views,
    tiny_config,
    tiny_learner,
)

from repre_jax.models.pixels import IMAGENET, normalise
from repre_jax.models.taps import apply_with_taps
from repre_jax.sharding import by_row, make_mesh, replicated
from repre_jax.training import step as train_step_module
from repre_jax.training.learner import target_part
from repre_jax.training.optimizers import map_with_path
from repre_jax.training.step import encode, loss_and_gradients, train_step

METHODS = ("dino", "moco_v3")


@pytest.fixture(scope="module", params=METHODS)
def method(request):
    return request.param


@pytest.fixture(scope="module")
def reference(method):
    """(learner, outcome on one device in one piece)."""
    learner = tiny_learner(tiny_config(method))
    return learner, measure(learner)


@pytest.mark.parametrize("devices", [pytest.param(2, marks=pytest.mark.slow), 8])
def test_one_device_is_many(reference, devices):
    learner, alone = reference
    assert_agree(measure(learner, devices=devices), alone)


@pytest.mark.parametrize(
    ("accumulate", "devices"), [(4, 1), pytest.param(2, 2, marks=pytest.mark.slow)]
)
def test_accumulation_changes_nothing(reference, accumulate, devices):
    learner, whole = reference
    parts = dataclasses.replace(learner, accumulate=accumulate)
    assert_agree(measure(parts, devices=devices), whole)


def test_accumulated_gradient_is_that_of_the_loss_under_drop_path():
    """The encoder runs twice on every chunk: both times with the same branches dropped."""
    config = tiny_config("moco_v3")
    config.model.drop_path = 0.5
    config.train.accumulate = 2
    learner = tiny_learner(config)
    function = jax.jit(functools.partial(outcome, learner))
    state, views = random_state(learner), random_views(learner)
    found = function(state, views)
    rng = np.random.default_rng(2)
    direction = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), state.params)
    # The patch embedding is a constant of this loss: the gradient does not know of its way.
    direction["encoder"]["patch_embed"] = jax.tree.map(
        np.zeros_like, direction["encoder"]["patch_embed"]
    )

    def loss(distance):
        params = jax.tree.map(lambda x, d: x + distance * d, state.params, direction)
        return float(function(state.replace(params=params), views)["metrics"]["loss"])

    step = 5e-5  # the loss bends much within 1e-3 of such a direction
    slope = sum(
        float(np.vdot(g, d))
        for g, d in zip(
            jax.tree.leaves(found["gradients"]), jax.tree.leaves(direction), strict=True
        )
    )
    assert (loss(step) - loss(-step)) / (2 * step) == pytest.approx(slope, rel=0.05)


def test_every_trained_parameter_has_a_gradient_and_the_frozen_none(reference, method):
    learner, found = reference
    forever = [f for f in learner.method.frozen if f.until_step is None]
    still = {p for p in paths(found["gradients"]) if any(f.covers(p) for f in forever)}
    assert still == (
        {"encoder/patch_embed/bias", "encoder/patch_embed/kernel"} if method == "moco_v3" else set()
    )
    largest = map_with_path(lambda path, g: (path, np.abs(g).max()), found["gradients"])
    largest = dict(jax.tree.leaves(largest, is_leaf=lambda x: isinstance(x, tuple)))
    assert {path for path, value in largest.items() if value == 0} == still
    assert {"repre/log_variance/contrast", "repre/log_variance/reconstruct"} < set(largest)


def test_reconstruction_is_of_view_1_before_normalisation(reference):
    learner, found = reference
    state, views = random_state(learner), random_views(learner)
    pixels = views["global"][:, 0]
    variables = {"params": state.params["encoder"]}
    taps = learner.repre.taps
    _, maps = apply_with_taps(learner.encoder, variables, normalise(pixels, IMAGENET), taps)
    reconstruction = learner.repre.reconstruct(state.params["repre"], maps)
    expected = np.abs(np.asarray(reconstruction) - pixels).mean()
    np.testing.assert_allclose(found["metrics"]["loss/reconstruct"], expected, rtol=1e-5)


def test_total_loss_is_the_weighted_sum(reference):
    learner, found = reference
    metrics = found["metrics"]
    log_variance = random_state(learner).params["repre"]["log_variance"]
    contrast, reconstruct = log_variance["contrast"], log_variance["reconstruct"]
    np.testing.assert_allclose(metrics["weight/contrast"], np.exp(-contrast), rtol=1e-6)
    np.testing.assert_allclose(metrics["weight/reconstruct"], np.exp(-reconstruct), rtol=1e-6)
    total = metrics["weight/contrast"] * metrics["loss/contrast"] + contrast / 2
    total += metrics["weight/reconstruct"] * metrics["loss/reconstruct"] + reconstruct
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-6)


# ---------------------------------------------------------------------------------------------
# Whole steps. Augmentation, which has tests of its own, is replaced by one that can give NaN.


GOOD, BAD = False, True
COURSE = (GOOD, GOOD, BAD, BAD, GOOD, GOOD)


@pytest.fixture(scope="module")
def course(method):
    """(learner, numpy states before and after each step of COURSE, metrics, compiled programs)."""
    learner = tiny_learner(tiny_config(method), devices=2)
    mesh = make_mesh(2)
    state = jax.device_put(random_state(learner), replicated(mesh))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_step_module, "augment_views", plain_views)
        step = jax.jit(functools.partial(train_step, learner), donate_argnums=0)
        states, history = [jax.tree.map(np.array, state)], []
        for t, bad in enumerate(COURSE):
            index = np.arange(BATCH, dtype=np.int32)
            index[3] = -1 if bad else 3
            batch = random_pixels(learner, seed=t) | {
                "index": index,
                "epoch": np.full(BATCH, t // STEPS_PER_EPOCH, np.int32),
            }
            state, metrics = step(state, jax.device_put(batch, by_row(mesh)))
            states.append(jax.tree.map(np.array, state))
            history.append(jax.tree.map(np.array, metrics))
    return learner, states, history, step._cache_size()


def test_one_compilation_for_all_steps(course):
    assert course[3] == 1


def test_a_step_that_is_not_finite_changes_nothing_but_clock_and_counters(course):
    _, states, history, _ = course
    clock = ("step", "nonfinite_steps", "nonfinite_in_a_row")
    changed = []
    for before, after in itertools.pairwise(states):
        kept = [{n: x for n, x in bits(s).items() if n not in clock} for s in (before, after)]
        changed.append(kept[0] != kept[1])
    assert changed == [not bad for bad in COURSE]
    assert [int(s.step) for s in states] == [0, 1, 2, 3, 4, 5, 6]
    assert [int(s.nonfinite_steps) for s in states] == [0, 0, 0, 1, 2, 2, 2]
    assert [int(s.nonfinite_in_a_row) for s in states] == [0, 0, 0, 1, 2, 0, 0]
    assert [bool(np.isfinite(m["loss"])) for m in history] == [not bad for bad in COURSE]
    assert [int(m["nonfinite_steps"]) for m in history] == [0, 0, 1, 2, 2, 2]
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(states[-1]))


def test_target_is_the_moving_average_and_nothing_else(course):
    learner, states, history, _ = course
    for t, bad in enumerate(COURSE):
        if bad:
            continue
        momentum = history[t]["momentum"]
        expected = jax.tree.map(
            lambda target, online, m=momentum: target * m + online * (1 - m),
            states[t].target_params,
            target_part(learner.method, states[t + 1].params),
        )
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-6),
            states[t + 1].target_params,
            expected,
        )
    assert set(states[0].target_params) == {"encoder", "heads"}
    assert set(states[0].target_params["heads"]) == {"projector"}


def test_target_statistics_are_its_own(course, method):
    _, states, _, _ = course
    if method == "dino":
        assert states[-1].batch_stats == states[-1].target_batch_stats == {}
        return
    assert set(states[-1].target_batch_stats) == {"projector"}
    for before, after in itertools.pairwise(states[:3]):
        online, target = bits(after.batch_stats["projector"]), bits(after.target_batch_stats)
        old = bits(before.target_batch_stats)
        for path, value in target.items():
            assert value != old[path]
            assert value != online[path.removeprefix("projector/")]


def test_centre_is_the_running_mean_of_raw_teacher_logits(course, method):
    learner, states, _, _ = course
    if method == "moco_v3":
        assert states[-1].memory == {}
        return
    pixels = normalise(
        random_pixels(learner, seed=0)["global"].reshape(-1, 16, 16, 3) / 255.0, IMAGENET
    )
    target = states[0].target_params
    pooled = learner.encoder.apply({"params": target["encoder"]}, pixels).pooled
    variables = {"params": target["heads"]}
    logits = learner.method.heads.apply(variables, pooled, method="target")
    expected = 0.9 * states[0].memory["centre"] + 0.1 * np.asarray(logits).mean(axis=0)
    np.testing.assert_allclose(states[1].memory["centre"], expected, atol=1e-5)


def test_frozen_parameters_keep_every_bit(course, method):
    """With RePre on, whose gradient also reaches the patch embedding, and decay of everything."""
    _, states, _, _ = course
    name = {"dino": "heads/projector/prototypes/", "moco_v3": "encoder/patch_embed/"}[method]
    values = [{p: x for p, x in bits(s.params).items() if p.startswith(name)} for s in states]
    assert values[0]
    moved = [before != after for before, after in itertools.pairwise(values)]
    # DINO's last layer is frozen for the first epoch.
    free = [method == "dino" and t >= STEPS_PER_EPOCH for t in range(len(COURSE))]
    assert moved == free
    others = [{p: x for p, x in bits(s.params).items() if not p.startswith(name)} for s in states]
    assert all(others[0][path] != others[1][path] for path in others[0])


# ---------------------------------------------------------------------------------------------
# What is in the program


@pytest.fixture(scope="module")
def baseline(method):
    config = tiny_config(method)
    config.repre.enabled = False
    return tiny_learner(config)


@pytest.fixture(scope="module")
def traced(baseline, reference):
    """Loss and gradients of both as traced, before any compiler: (the baseline's, RePre's)."""
    return tuple(
        jax.jit(functools.partial(loss_and_gradients, learner)).trace(
            random_state(learner), random_views(learner), random_keys(learner)
        )
        for learner in (baseline, reference[0])
    )


def kernels(traced):
    """Spatial sizes of the kernels of all convolutions."""
    found = [e for e in equations(traced.jaxpr.jaxpr) if e.primitive.name == "conv_general_dilated"]
    return {
        tuple(e.invars[1].aval.shape[d] for d in e.params["dimension_numbers"].rhs_spec[2:])
        for e in found
    }


def flops(traced):
    return traced.lower().cost_analysis()["flops"]


def test_baseline_has_no_decoder(baseline, reference, traced):
    assert set(random_state(baseline).params) == {"encoder", "heads"}
    assert set(random_state(reference[0]).params) == {"encoder", "heads", "repre"}
    assert not any("repre" in path for path in paths(random_state(baseline).opt_state))
    without, with_branch = map(kernels, traced)
    assert (3, 3) in with_branch
    assert (3, 3) not in without


def test_repre_adds_the_work_of_its_decoder_and_no_other(reference, traced):
    learner = reference[0]
    without, with_branch = map(flops, traced)
    maps = [np.zeros((BATCH, 2, 2, WIDTH), np.float32)] * len(learner.repre.taps)
    pixels = random_views(learner)["global"][:, 0]

    def mean_loss(params, maps):
        return jnp.mean(learner.repre.loss(learner.encoder, {"repre": params}, maps, pixels, None))

    branch = jax.jit(jax.grad(mean_loss, argnums=(0, 1))).trace(
        random_state(learner).params["repre"], maps
    )
    assert with_branch - without == pytest.approx(flops(branch), rel=0.05)


def test_views_and_branches_of_an_example_drop_differently():
    config = tiny_config("dino")
    config.model.update({"depth": 4, "drop_path": 0.5})
    learner = tiny_learner(config)
    params = random_state(learner).params
    same = {"global": np.repeat(random_views(learner)["global"][:1, :1], 2, axis=1)}
    same["global"] = np.repeat(same["global"], BATCH, axis=0)  # one image, 2 x 16 times

    @jax.jit
    def pooled_of(key):
        keys = random_keys(learner)._replace(step=key)
        return encode(learner, params, same, keys).inputs

    pooled = np.asarray(pooled_of(jax.random.key(0)))
    different = len(np.unique(pooled.reshape(2 * BATCH, -1), axis=0))
    # Three blocks drop (the first has rate 0), two branches each, independently: 64 outcomes.
    assert different > 12
    assert not np.array_equal(pooled[:, 0], pooled[:, 1])
    np.testing.assert_array_equal(pooled, pooled_of(jax.random.key(0)))
    assert not np.array_equal(pooled, pooled_of(jax.random.key(1)))


def test_bfloat16_computes_nearly_the_same_loss_in_float32(reference, method):
    config = tiny_config(method)
    config.train.compute_dtype = "bfloat16"
    learner = tiny_learner(config)
    state, views = random_state(learner), random_views(learner)

    def losses(state, views):
        metrics = loss_and_gradients(learner, state, views, random_keys(learner))[1]["metrics"]
        return {name: metrics[name] for name in ("loss", "loss/contrast", "loss/reconstruct")}

    found = jax.jit(losses)(state, views)
    for name, value in found.items():
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, reference[1]["metrics"][name], atol=1e-2, err_msg=name)

    keys = random_keys(learner)
    jaxpr = jax.make_jaxpr(functools.partial(loss_and_gradients, learner))(state, views, keys)
    all_equations = list(equations(jaxpr.jaxpr))
    products = {e.invars[0].aval.dtype for e in all_equations if e.primitive.name == "dot_general"}
    assert jnp.dtype(jnp.bfloat16) in products
    # Every softmax takes a maximum or a logarithm; bfloat16 "exp" is the slope of GELU's erf.
    soft = [e for e in all_equations if e.primitive.name in ("reduce_max", "log")]
    assert soft
    assert {e.invars[0].aval.dtype for e in soft} == {jnp.dtype(jnp.float32)}
    gradients = jax.tree.leaves(jaxpr.out_avals[: len(jax.tree.leaves(state.params))])
    assert {x.dtype for x in gradients} == {jnp.dtype(jnp.float32)}
