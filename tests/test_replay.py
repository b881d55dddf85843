"""A step that was not finite: the image is named, and the step can be looked into."""

import json

import jax.numpy as jnp
import pytest
from steps import bits
from tiny import saved_run
from whole_runs import checkpoint_steps, command, rows

from repre_jax.evaluation.checkpoint import run_config
from repre_jax.replay import _state_before
from repre_jax.sharding import make_mesh
from repre_jax.training import step as step_module
from repre_jax.training.placement import Placement

FLAGS = (
    "--config=lomar_vits:smoke",
    "--config.model.width=16",
    "--config.model.heads=2",
    "--config.checkpoint.every_steps=1",
    "--config.train.steps=4",
)
SICK = 804  # of the digits; in the third batch


@pytest.fixture
def sick_image(monkeypatch):
    """An image whose pixels are not finite once they are augmented."""
    augment = step_module.augment_views

    def spoil(batch, *arguments):
        views = augment(batch, *arguments)
        sick = (batch["index"] == SICK)[:, None, None, None, None]
        return views | {"global": jnp.where(sick, jnp.nan, views["global"])}

    monkeypatch.setattr(step_module, "augment_views", spoil)


@pytest.mark.slow
def test_the_image_is_named_and_the_step_replayed(sick_image, tmp_path, capsys):
    run = tmp_path / "run"
    assert command(*FLAGS, f"--workdir={run}") == 0
    out = capsys.readouterr().out
    (path,) = (run / "nonfinite").iterdir()
    note = json.loads(path.read_text())
    step = note["step"]
    assert note["loss"] == "nan" and SICK in note["images"]
    (name,) = note["features_not_finite_of"]
    assert f"Step {step} is skipped: loss or gradient is not finite, nor are the features of" in out
    assert rows(run)[-1]["nonfinite_steps"] == 1

    before = checkpoint_steps(run), sorted(run.rglob("*"))
    assert command("--config=replay", f"--config.step_file={path}") == 0
    told = capsys.readouterr().out
    assert f"  pixels: 1 of 16 not finite ({name})" in told
    assert "  loss = nan" in told and "  parameters: all finite" in told
    assert "gradients: " in told and "not finite (encoder/" in told
    assert (checkpoint_steps(run), sorted(run.rglob("*"))) == before, "the run is only read"


def test_a_file_that_is_no_step(tmp_path, capsys):
    assert command("--config=replay", f"--config.step_file={tmp_path / 'none.json'}") == 2
    assert "give a nonfinite/<step>.json" in capsys.readouterr().err


def test_a_run_that_began_with_weights_is_replayed_from_them(tmp_path):
    first = saved_run(tmp_path / "first", "moco_v3")
    config = run_config(first.folder)
    config.model.init_from = str(first.folder)
    placement = Placement(make_mesh(1))
    arguments = (first.learner, tmp_path / "no checkpoint", 3, placement)
    state = _state_before(config, *arguments)
    assert bits(state.params["encoder"]) == bits(first.states[1].params["encoder"])
    config.model.init_from = ""
    state = _state_before(config, *arguments)
    assert bits(state.params["encoder"]) != bits(first.states[1].params["encoder"])
