"""What every method keeps with RePre: one device is eight, resume is exact, on ViT and on Swin."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from steps import assert_agree, bits, measure, outcome, plain_views
from tiny import (
    BATCH,
    CONTRASTIVE,
    MASKED,
    random_pixels,
    random_state,
    random_views,
    tiny_config,
    tiny_conv_config,
    tiny_learner,
    tiny_swin_config,
)
from whole_runs import ROOT, command, rows

from repre_jax.errors import UserError
from repre_jax.methods import METHODS, moco_v3
from repre_jax.methods.method import Method, whole_views, with_overrides
from repre_jax.models.heads import ProjectionMLP
from repre_jax.ranges import POSITIVE
from repre_jax.runs.checkpoints import Checkpoints
from repre_jax.sharding import by_row, make_mesh, replicated
from repre_jax.training import step as train_step_module
from repre_jax.training.learner import _check_views
from repre_jax.training.step import train_step

# training/test_step.py and test_resume.py try the two that are left out in more ways.
OTHERS = sorted(set(METHODS) - {"dino", "moco_v3"})
CONFIGS = {"vit": tiny_config, "swin": tiny_swin_config, "conv": tiny_conv_config}
# BatchNorms one after the other divide by small deviations, and rounding errors grow with that.
TOLERANCE = {"vit": 1e-5, "swin": 1e-5, "conv": 3e-5}


def slow_but(fast, *groups):
    """(method, backbone) of all groups; what the fast tier leaves out is marked."""
    return [
        pytest.param(*case, marks=() if case in fast else pytest.mark.slow)
        for group in groups
        for case in group
    ]


# BatchNorm in the encoder: two views, and those of two resolutions.
CONV = [("moco_v3", "conv"), ("dino", "conv")]
VIT = [(method, "vit") for method in METHODS]
SWIN = [(method, "swin") for method in CONTRASTIVE]


@functools.cache
def alone(method, backbone):
    """(learner, what it makes of a batch on one device in one piece)."""
    learner = tiny_learner(CONFIGS[backbone](method))
    return learner, measure(learner)


# A queue and tokens; training/test_step.py has BatchNorm in heads and target.
@pytest.mark.parametrize(
    ("method", "backbone"),
    slow_but(
        [("moco_v2", "vit")],
        [case for case in VIT if case[0] in OTHERS],
        SWIN,
        CONV,
    ),
)
def test_one_device_is_eight(method, backbone):
    learner, whole = alone(method, backbone)
    assert (learner.repre is not None) == (method in CONTRASTIVE)
    assert_agree(measure(learner, devices=8), whole, TOLERANCE[backbone])


def masked_beside(method, **repre):
    """MAE with RePre's decoder, or a framework with LoMaR's windows."""
    config = tiny_config(method)
    config.repre.enabled = True
    config.repre.update(repre)
    if method in CONTRASTIVE:
        config.model.image_size = 32
    return config


BESIDE = {
    "repre_beside_mae": lambda: masked_beside("mae"),
    "windows_beside_moco_v3": lambda: masked_beside("moco_v3", branch="windows"),
    "windows_beside_dino": lambda: masked_beside("dino", branch="windows"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BESIDE)
def test_what_neither_paper_has_is_the_same_on_eight_devices(name):
    learner = tiny_learner(BESIDE[name]())
    found = measure(learner)
    assert_agree(measure(learner, devices=8), found)
    metrics = found["metrics"]
    loss = learner.method.loss_name
    total = metrics[f"weight/{loss}"] * metrics[f"loss/{loss}"]
    total += metrics["weight/reconstruct"] * metrics["loss/reconstruct"]
    logs = random_state(learner).params["repre"]["log_variance"]
    share = 0.5 if name.startswith("windows") else 1.0
    total += logs[loss] / 2 + share * logs["reconstruct"]
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-5)


@pytest.mark.parametrize("method", ["lomar", "lomar_tokens"])
def test_windows_show_no_whole_view_to_repre(method):
    with pytest.raises(UserError, match=f"{method} does not pass it whole .*repre.enabled=false"):
        tiny_learner(masked_beside(method))


@pytest.mark.parametrize("method", MASKED)
def test_masked_methods_need_patches_of_their_own(method):
    config = tiny_conv_config(method)
    with pytest.raises(UserError, match=r"vit_conv_nano's stem overlap|patches stand alone"):
        tiny_learner(config)


def test_windows_need_patches_of_their_own():
    config = tiny_conv_config("moco_v3")
    config.model.image_size = 32
    config.repre.update({"branch": "windows", "taps": "multi"})
    with pytest.raises(UserError, match=r"branch=windows masks tokens.*patches stand alone"):
        tiny_learner(config)


def test_a_convolutional_stem_is_trained():
    config = tiny_conv_config("moco_v3")
    config.method.freeze_patch_embedding = True
    with pytest.raises(UserError, match=r"method\.freeze_patch_embedding=false"):
        tiny_learner(config)


def test_the_statistics_of_a_stem_are_those_of_the_views_that_pass_it():
    """MoCo v2: view 1 through the online network, view 2 through the target."""
    learner = tiny_learner(tiny_conv_config("moco_v2"))
    views = random_views(learner)
    other = random_views(learner, seed=2)["global"]
    mixed = views | {"global": np.stack([views["global"][:, 0], other[:, 1]], axis=1)}

    @jax.jit
    def statistics(state, views):
        found = outcome(learner, state, views)
        return [found[name]["encoder"] for name in ("batch_stats", "target_batch_stats")]

    found = [map(bits, statistics(random_state(learner), some)) for some in (views, mixed)]
    same, different = zip(*found, strict=True)
    assert same[0] == same[1]
    assert all(different[0][path] != different[1][path] for path in different[0])


@pytest.mark.parametrize("method", MASKED)
def test_masked_methods_need_a_vit(method):
    config = tiny_swin_config(method)
    with pytest.raises(UserError, match="needs a ViT"):
        tiny_learner(config)


@pytest.mark.parametrize(
    ("method", "backbone"),
    slow_but(
        [("lomar_tokens", "vit")],
        [("simclr", "vit"), ("moco_v2", "vit"), ("lomar_tokens", "vit")],
        CONV,
    ),
)
def test_accumulation_changes_nothing(method, backbone):
    """Negatives, one view a network, a queue, losses image by image, BatchNorm in the encoder.

    All of them with the encoder in four pieces.
    """
    learner, whole = alone(method, backbone)
    parts = dataclasses.replace(learner, accumulate=4)
    assert_agree(measure(parts), whole, TOLERANCE[backbone])


def batch_of(learner, step):
    return random_pixels(learner, seed=step) | {
        "index": np.arange(BATCH, dtype=np.int32),
        "epoch": np.zeros(BATCH, np.int32),
    }


# Every kind of memory: none, one queue, two queues with a target, a centre.
@pytest.mark.parametrize(
    ("method", "backbone"),
    slow_but([("moco_v2", "vit")], VIT, [("moco_v3", "conv"), ("moby", "swin")]),
)
def test_two_steps_and_two_after_a_restore_are_four(method, backbone, tmp_path, monkeypatch):
    """Without augmentation, which is no function of the state."""
    monkeypatch.setattr(train_step_module, "augment_views", plain_views)
    config = CONFIGS[backbone](method)
    config.model.drop_path = 0.2  # draws from a stream that must go on, too
    learner = tiny_learner(config)
    mesh = make_mesh(1)
    step = jax.jit(functools.partial(train_step, learner))
    state = jax.device_put(random_state(learner), replicated(mesh))
    for t in range(4):
        if t == 2:
            checkpoints = Checkpoints(tmp_path, keep=1, best_metric=None)
            checkpoints.save(state)
            checkpoints.close()
        state, _ = step(state, jax.device_put(batch_of(learner, t), by_row(mesh)))

    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    checkpoints = Checkpoints(tmp_path, keep=1, best_metric=None)
    resumed, _ = checkpoints.restore_newest(abstract)
    checkpoints.close()
    assert int(resumed.step) == 2
    for t in (2, 3):
        resumed, _ = step(resumed, jax.device_put(batch_of(learner, t), by_row(mesh)))
    assert bits(resumed) == bits(state)
    assert step._cache_size() == 1


# The optimizer divides gradients by their size, and with them what the order of sums leaves.
AFTER_TWO_STEPS = 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "backbone"),
    [("moco_v2", "vit"), ("lomar_tokens", "vit"), ("moby", "swin"), ("moco_v3", "conv")],
)
def test_two_steps_and_two_in_other_sums_are_nearly_four(method, backbone):
    """The last two on four devices, in two pieces, with recomputed blocks."""
    config = CONFIGS[backbone](method)
    config.optimizer.warmup_epochs = 0.0
    learner = tiny_learner(config)
    config.train.accumulate = 2
    config.model.remat = True
    other = tiny_learner(config, devices=4)

    def course(state, step, devices, steps):
        mesh = make_mesh(devices)
        state, metrics = jax.device_put(state, replicated(mesh)), None
        for t in steps:
            state, metrics = step(state, jax.device_put(batch_of(learner, t), by_row(mesh)))
        return jax.tree.map(np.asarray, (state, metrics))

    step, other_step = (jax.jit(functools.partial(train_step, x)) for x in (learner, other))
    half, _ = course(random_state(learner), step, 1, (0, 1))
    whole, near = course(half, step, 1, (2, 3)), course(half, other_step, 4, (2, 3))
    assert bits(near) != bits(whole), "or nothing was tried"
    near, whole = ((state.replace(opt_state={}), metrics) for state, metrics in (near, whole))
    assert_agree(near, whole, AFTER_TWO_STEPS)


@pytest.mark.slow
def test_the_target_network_drops_no_path():
    """MoBY: drop path is the online network's; the keys in the queues are those without any."""
    outcomes = []
    for rate in (0.0, 0.5):
        config = tiny_config("moby")
        config.model.drop_path = rate
        learner = tiny_learner(config)
        step = jax.jit(functools.partial(train_step, learner))
        outcomes.append(step(random_state(learner), batch_of(learner, 0)))
    (plain, plain_metrics), (dropped, dropped_metrics) = outcomes
    for name in ("queue_1", "queue_2"):
        np.testing.assert_allclose(plain.memory[name], dropped.memory[name], atol=1e-6)
    assert abs(plain_metrics["loss/contrast"] - dropped_metrics["loss/contrast"]) > 1e-3


def test_methods_without_a_target_keep_none():
    for method in ("simclr", "simsiam"):
        state = tiny_learner(tiny_config(method)).shapes
        assert state.target_params == {}
        assert state.target_batch_stats == {}


def test_queues_start_with_normalised_keys_of_their_own():
    memory = tiny_learner(tiny_config("moby")).method.memory.init(jax.random.key(0))
    for name in ("queue_1", "queue_2"):
        np.testing.assert_allclose(np.linalg.norm(memory[name], axis=1), 1, rtol=1e-6)
    assert np.abs(memory["queue_1"] - memory["queue_2"]).max() > 0.1


class ToyHead(nn.Module):
    """A linear map, the same for all views."""

    def setup(self):
        self.projector = ProjectionMLP(features=(8,), biases=(True,))

    def __call__(self, pooled, train):
        return self.projector(pooled, train)


class toy_method:
    """A method as CONTRIBUTING.md describes it: pulls the views of an image together."""

    VIEWS, RANGES, SMOKE = moco_v3.VIEWS, {"strength": POSITIVE}, {}

    @staticmethod
    def default_config():
        return ConfigDict({"name": "toy", "strength": 2.0})

    @staticmethod
    def build(config, views, clock, encoder):
        def loss(online, target, memory, step):
            distance = jnp.sum(jnp.square(online[:, 0] - online[:, 1]), axis=-1)
            return config.strength * distance, {"toy": jnp.mean(distance)}

        recipe = with_overrides(toy_method.VIEWS, views)
        return Method(
            views=recipe,
            encode=whole_views(0, 1),
            heads=ToyHead(),
            loss=loss,
            loss_name="distance",
            evaluated="online",
        )


TOY_CONFIG = """
from repre_jax.training import defaults

def get_config(variants=""):
    return defaults.apply_variants(defaults.get_config("toy"), variants)
"""


@pytest.mark.slow
def test_an_eighth_method_from_outside_trains(monkeypatch, tmp_path):
    """Its file, its entry in METHODS and its config are all that main.py needs."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setitem(METHODS, "toy", toy_method)
    (tmp_path / "toy_vits.py").write_text(TOY_CONFIG)
    run = ["--config.train.steps=2", f"--workdir={tmp_path / 'run'}"]
    assert command(f"--config={tmp_path / 'toy_vits.py'}:smoke", *run) == 0
    first, second = rows(tmp_path / "run")
    assert second["step"] == 2 and np.isfinite(second["loss/reconstruct"])
    for row in (first, second):
        assert row["loss/distance"] == pytest.approx(2 * row["toy"], rel=1e-6)


def test_a_method_is_known_to_its_file_and_the_dict_alone():
    """What CONTRIBUTING says of adding one: no table of anything elsewhere has to know its name."""
    texts = {path: path.read_text() for path in (ROOT / "repre_jax").rglob("*.py")}
    # But for whose weights other libraries save how.
    texts = {path: text for path, text in texts.items() if path.parent.name != "convert"}
    for name in ("lomar", "lomar_tokens"):
        knowing = {
            path.relative_to(ROOT).as_posix() for path in texts if f'"{name}"' in texts[path]
        }
        assert knowing == {"repre_jax/methods/__init__.py", f"repre_jax/methods/{name}.py"}


def test_repre_refuses_a_method_that_does_not_see_view_1_whole():
    learner = tiny_learner(tiny_config("moco_v2"))
    crops_only = dataclasses.replace(learner.method, sees_view_1=False)
    with pytest.raises(UserError, match="reconstructs view 1, and patches does not pass it whole"):
        _check_views(crops_only, learner.encoder, learner.repre, "patches")
    _check_views(crops_only, learner.encoder, None, "patches")
