"""``model.init_from``: the networks of a run, or an encoder alone, in place of random weights."""

import functools
import shutil

import jax
import numpy as np
import pytest
from steps import bits
from tiny import BATCH, STEPS_PER_EPOCH, saved_run, tiny_config
from whole_runs import command, summary

from repre_jax.errors import UserError
from repre_jax.evaluation.checkpoint import run_config
from repre_jax.starting_weights import starting_weights
from repre_jax.training import defaults
from repre_jax.training.learner import build_learner
from repre_jax.training.resolution import resolve


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of DINO, whose paper evaluates the moving average."""
    return saved_run(tmp_path_factory.mktemp("runs") / "first", "dino", steps=(3,))


@pytest.fixture
def start_of(run):
    """(config, learner, weights, sentence) of a method's run that starts from that one."""

    def start(method, **changes):
        config = run_config(run.folder) if method == "dino" else tiny_config(method)
        if method != "dino":
            defaults.usual_size(config)
            config.repre.taps = "multi"
            config.model.update({"name": "vit_nano"})
        config.model.init_from = str(run.folder)
        config.update_from_flattened_dict(changes)
        images = STEPS_PER_EPOCH * BATCH
        learner = build_learner(config, resolve(config, images=images, devices=1))
        return learner, *starting_weights(config, learner)

    return start


def test_all_networks_of_the_same_method_go_on(run, start_of):
    learner, start, told = start_of("dino")
    state, saved = jax.jit(learner.init)(start), run.states[3]
    for part in ("encoder", "heads"):
        assert bits(state.params[part]) == bits(saved.target_params[part])
        assert bits(state.target_params[part]) == bits(state.params[part])
    assert bits(state.params["repre"]) == bits(saved.params["repre"])
    assert int(state.step) == 0 and not np.any(jax.tree.leaves(state.opt_state)[0])
    assert told == ("Starts from first, step 3, target weights: encoder, repre, heads/projector.")


def test_what_has_other_shapes_begins_anew(start_of):
    _, start, told = start_of("dino", **{"method.prototypes": 48, "repre.decoder.width": 16})
    assert start["params"].keys() == {"encoder", "heads"} and not start["params"]["heads"]
    assert told.endswith("target weights: encoder; repre, heads/projector begin anew.")


def test_another_method_takes_the_encoder_alone(run, start_of):
    learner, start, told = start_of("moco_v3", **{"model.position": "learned"})
    shapes = learner.shapes
    assert jax.tree.structure(jax.eval_shape(learner.init, start)) == jax.tree.structure(shapes)
    assert bits(start["params"]["encoder"]) == bits(run.states[3].target_params["encoder"])
    assert "encoder; repre, heads/predictor, heads/projector begin anew" in told


def test_positions_are_resized_to_the_size_of_the_run(run, start_of):
    learner, start, told = start_of("dino", **{"model.image_size": 32})
    positions = start["params"]["encoder"]["position_embedding"]
    assert positions.shape == (1, 1 + 16, 128)
    before = run.states[3].target_params["encoder"]["position_embedding"]
    assert positions[:, 0].tobytes() == before[:, 0].tobytes()
    # What the encoder of the smaller grid adds to tokens of the larger image.
    images = np.random.default_rng(0).random((1, 32, 32, 3), np.float32)
    encode = functools.partial(
        run.learner.encoder.apply, {"params": run.states[3].target_params["encoder"]}
    )
    expected = jax.jit(encode)(images)
    found = jax.jit(learner.encoder.apply)({"params": start["params"]["encoder"]}, images)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), found, expected
    )
    assert "heads/projector, the positions resized." in told


@pytest.mark.parametrize(
    ("method", "changes", "words"),
    [
        ("moco_v3", {}, "position=learned, and this run has sincos"),
        ("dino", {"model.normalise": False}, "and this run has None"),
        ("dino", {"model.heads": 2}, "heads=4, and this run has 2"),
        ("dino", {"model.init_from": "nowhere"}, "does not exist"),
    ],
)
def test_encoders_that_mean_something_else_are_refused(start_of, method, changes, words):
    with pytest.raises(UserError, match=words):
        start_of(method, **changes)


@pytest.mark.slow
def test_a_run_starts_there_and_needs_them_no_more(run, tmp_path, capsys):
    first = shutil.copytree(run.folder, tmp_path / "first")
    arguments = [
        "--config=configs/dino_vits.py:smoke",
        f"--workdir={tmp_path / 'run'}",
        "--config.train.steps=2",
        "--config.checkpoint.every_steps=1",
        f"--config.model.init_from={first}",
        "--config.model.image_size=16",
    ]
    assert command(*arguments) == 0
    assert "Starts from first, step 3, target weights: encoder" in capsys.readouterr().out
    finished = summary(tmp_path / "run")
    shutil.rmtree(first)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "2")
    (tmp_path / "run" / "summary.json").unlink()
    assert command(*arguments) == 0
    told = capsys.readouterr().out
    assert "Resumed at step 1." in told and "Starts from" not in told
    assert summary(tmp_path / "run")["params_sha256"] == finished["params_sha256"]
