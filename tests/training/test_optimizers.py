"""Which parameters decay, how tensors are clipped, what frozen means to Adam."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import BATCH, DEPTH, STEPS_PER_EPOCH, TOTAL_STEPS, paths, tiny_config, tiny_learner

from repre_jax.methods.method import Frozen
from repre_jax.training.optimizers import build_optimizer, clip_by_tensor_norm

BLOCK_MATRICES = [
    "attention/out/kernel",
    "attention/qkv/kernel",
    "mlp/down/kernel",
    "mlp/up/kernel",
]
BLOCK_VECTORS = [
    "attention/out/bias",
    "attention/qkv/bias",
    "mlp/down/bias",
    "mlp/up/bias",
    "norm_1/bias",
    "norm_1/scale",
    "norm_2/bias",
    "norm_2/scale",
]
DECODER = [
    *(f"repre/decoder/block_{b}/fusion_{k}" for b in range(DEPTH - 1) for k in range(2)),
    "repre/decoder/to_pixels",
]


def of_blocks(names):
    return [f"encoder/block_{k}/{name}" for k in range(DEPTH) for name in names]


DINO_DECAYED = [
    *of_blocks(BLOCK_MATRICES),
    "encoder/class_token",
    "encoder/patch_embed/kernel",
    "encoder/position_embedding",
    *(f"heads/projector/dense_{k}/kernel" for k in range(3)),
    "heads/projector/prototypes/direction",
    "heads/projector/prototypes/scale",  # of rank two in torch: decayed
    *(f"{layer}/kernel" for layer in DECODER),
]
DINO_OTHERS = [
    *of_blocks(BLOCK_VECTORS),
    "encoder/norm/bias",
    "encoder/norm/scale",
    "encoder/patch_embed/bias",
    *(f"heads/projector/dense_{k}/bias" for k in range(3)),
    *(f"{layer}/bias" for layer in DECODER),
    "repre/log_variance/contrast",
    "repre/log_variance/reconstruct",
]
MOCO_V3_DECAYED = [
    *of_blocks(BLOCK_MATRICES + BLOCK_VECTORS),
    "encoder/class_token",
    "encoder/norm/bias",
    "encoder/norm/scale",
    *(f"heads/projector/dense_{k}/kernel" for k in range(3)),
    *(f"heads/projector/norm_{k}/{name}" for k in range(2) for name in ("bias", "scale")),
    *(f"heads/predictor/dense_{k}/kernel" for k in range(2)),
    *(f"heads/predictor/norm_0/{name}" for name in ("bias", "scale")),
    *(f"{layer}/{name}" for layer in DECODER for name in ("bias", "kernel")),
]
MOCO_V3_OTHERS = [
    "encoder/patch_embed/bias",
    "encoder/patch_embed/kernel",
    "repre/log_variance/contrast",
    "repre/log_variance/reconstruct",
]


@pytest.fixture(scope="module", params=["dino", "moco_v3"])
def recipe(request):
    """(method, learner, jitted update of its optimizer for parameters that are all 1)."""
    learner = tiny_learner(tiny_config(request.param))
    shapes = learner.shapes
    ones = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes.params)
    opt_state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes.opt_state)

    @jax.jit
    def update(gradients, opt_state, step):
        return learner.optimizer.update(gradients, opt_state, ones, step=step)

    return request.param, learner, ones, opt_state, update


def moved(updates):
    flat = zip(paths(updates), jax.tree.leaves(updates), strict=True)
    return sorted(path for path, x in flat if np.abs(x).max() > 0)


def test_decay_masks(recipe):
    """Without gradient only decay moves a parameter. DINO's prototypes follow after an epoch."""
    method, _, ones, opt_state, update = recipe
    decayed, others = {
        "dino": (DINO_DECAYED, DINO_OTHERS),
        "moco_v3": (MOCO_V3_DECAYED, MOCO_V3_OTHERS),
    }[method]
    assert sorted(paths(ones)) == sorted(decayed + others)
    still = jax.tree.map(np.zeros_like, ones)
    updates, _ = update(still, opt_state, STEPS_PER_EPOCH - 1)
    last_layer = [p for p in decayed if "prototypes" in p]
    assert moved(updates) == sorted(set(decayed) - set(last_layer))
    updates, _ = update(still, opt_state, STEPS_PER_EPOCH)
    assert moved(updates) == sorted(decayed)


def test_rate_and_strength_of_decay(recipe):
    method, learner, ones, opt_state, update = recipe
    still = jax.tree.map(np.zeros_like, ones)
    updates, _ = update(still, opt_state, 1)
    rate = float(learner.learning_rate(1))
    progress = 1 / TOTAL_STEPS
    config = tiny_config(method).optimizer
    start, end = config.weight_decay, config.end_weight_decay
    strength = end + (start - end) * 0.5 * (1 + np.cos(np.pi * progress))
    np.testing.assert_allclose(updates["encoder"]["class_token"], -rate * strength, rtol=1e-5)


def test_log_variances_are_trained_but_neither_clipped_nor_decayed(recipe):
    """Their first moment is a tenth of the gradient as it is; the others' gradients are clipped."""
    method, _, ones, opt_state, update = recipe
    large = jax.tree.map(lambda x: np.full(x.shape, 1000.0, np.float32), ones)
    updates, after = update(large, opt_state, 0)
    assert {"repre/log_variance/contrast", "repre/log_variance/reconstruct"} <= set(moved(updates))
    moments = dict(zip(paths(after), jax.tree.leaves(after), strict=True))
    first = {path: x for path, x in moments.items() if "/mu/" in path}
    log_variance = [x for path, x in first.items() if "log_variance" in path]
    assert len(log_variance) == 2
    np.testing.assert_allclose(log_variance, 100.0, rtol=1e-6)
    norms = [np.linalg.norm(x) for path, x in first.items() if "log_variance" not in path]
    norms = [norm for norm in norms if norm > 0]  # the frozen last layer has none yet
    if method == "dino":
        np.testing.assert_allclose(norms, 0.1 * 3.0, rtol=1e-5)
    else:
        assert min(norms) > 100


def test_clip_per_tensor_against_numpy():
    rng = np.random.default_rng(0)
    scales = {"large": 100.0, "just_below": 1.0, "zero": 0.0, "matrix": 5.0}
    gradients = {
        "large": rng.normal(size=7) * 100,
        "just_below": np.array([0.6, 0.7999]),
        "zero": np.zeros(3),
        "matrix": rng.normal(size=(4, 5)),
    }
    assert scales.keys() == gradients.keys()
    gradients = jax.tree.map(np.float32, gradients)
    clipped, _ = clip_by_tensor_norm(1.0).update(gradients, None)
    for name, gradient in gradients.items():
        norm = np.linalg.norm(gradient)
        expected = gradient * min(1.0, 1.0 / (norm + 1e-6))
        np.testing.assert_allclose(clipped[name], expected, rtol=1e-6)
    assert np.linalg.norm(clipped["large"]) == pytest.approx(1.0, rel=1e-5)
    # Every tensor by itself: a large one does not shrink the others.
    np.testing.assert_array_equal(clipped["just_below"], gradients["just_below"])


RATE, DECAY = 0.5, 0.1


def small_adamw(frozen):
    """AdamW of constant rate on two tensors, and a function for one update, jitted."""
    params = {"free": np.full(3, 2.0, np.float32), "held": np.full((2, 2), 2.0, np.float32)}
    optimizer = build_optimizer(
        "adamw",
        params,
        learning_rate=lambda step: jnp.float32(RATE),
        weight_decay=lambda step: jnp.float32(DECAY),
        decay="all",
        frozen=frozen,
    )
    step = jax.jit(lambda g, state, step: optimizer.update(g, state, params, step=step))
    return params, optimizer.init(params), step


def leaves_with_paths(tree):
    return dict(zip(paths(tree), map(np.asarray, jax.tree.leaves(tree)), strict=True))


def test_freeze_until_a_step_leaves_moments_and_count_untouched():
    params, fresh, update = small_adamw([Frozen("held", 3)])
    gradients = jax.tree.map(lambda x: np.full(x.shape, 0.3, np.float32), params)
    state = fresh
    for step in range(3):
        updates, state = update(gradients, state, step)
        assert moved(updates) == ["free"]
    group = {path: x for path, x in leaves_with_paths(state).items() if "from_3" in path}
    assert any(path.endswith("count") for path in group)
    assert any(path.endswith("mu/held") for path in group)
    for path, value in group.items():
        np.testing.assert_array_equal(value, leaves_with_paths(fresh)[path], err_msg=path)
    updates, state = update(gradients, state, 3)
    # As a fresh AdamW moves: a whole step against the sign of the gradient, and decay.
    np.testing.assert_allclose(updates["held"], -RATE * (1 + DECAY * 2.0), rtol=1e-5)
    count = [int(x) for path, x in leaves_with_paths(state).items() if path.endswith("count")]
    assert sorted(count) == [1, 4]


def test_frozen_for_good_has_no_moments_and_never_moves():
    params, state, update = small_adamw([Frozen("held"), Frozen("held", 1)])
    gradients = jax.tree.map(np.ones_like, params)
    for step in range(3):
        updates, state = update(gradients, state, step)
        assert moved(updates) == ["free"]
    moments = [path for path in paths(state) if "/mu/" in path or "/nu/" in path]
    assert moments
    assert all(path.endswith("/free") for path in moments)


def test_frozen_prefixes_end_at_a_path_component():
    frozen = Frozen("encoder/patch_embed")
    assert frozen.covers("encoder/patch_embed")
    assert frozen.covers("encoder/patch_embed/kernel")
    assert not frozen.covers("encoder/patch_embedding")
    assert not frozen.covers("heads/encoder/patch_embed")


def test_unknown_decay_rule():
    with pytest.raises(ValueError, match="decay='some' must be one of"):
        build_optimizer(
            "adamw",
            {"x": np.zeros(1)},
            learning_rate=functools.partial(float),
            weight_decay=functools.partial(float),
            decay="some",
        )


@pytest.mark.parametrize("schedule", ["moco_v2", "moby", "deit", "dino"])
def test_a_held_rate_is_the_peak_whatever_the_schedule(schedule):
    """SimSiam's predictor: behind the warm-up its rate is the peak itself, not the cosine's."""
    config = tiny_config("simsiam")
    config.optimizer.update({"name": "sgd", "schedule": schedule, "warmup_epochs": 1.0})
    config.optimizer.update({"momentum": 0.0, "weight_decay": 0.0, "end_weight_decay": 0.0})
    learner = tiny_learner(config)
    shapes = learner.shapes.params
    ones = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes)

    @jax.jit
    def updated(step):
        state = learner.optimizer.init(ones)
        heads = learner.optimizer.update(ones, state, ones, step=step)[0]["heads"]
        return [heads[name]["dense_0"]["kernel"][0, 0] for name in ("predictor", "projector")]

    peak = config.optimizer.learning_rate * BATCH / 256
    for step in (STEPS_PER_EPOCH, TOTAL_STEPS - 1):
        predictor, projector = (-float(x) for x in updated(jnp.int32(step)))
        assert predictor == pytest.approx(peak)
        assert projector == pytest.approx(float(learner.learning_rate(step)))
        assert projector < peak or step == STEPS_PER_EPOCH
