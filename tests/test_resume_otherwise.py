"""A run goes on on other devices and in other sums, near where it would have ended; or is refused.

The run is that of test_old_runs.py, stopped at step 2 of 4, with drop path.
"""

import json
import shutil

import jax
import jax.numpy as jnp
import pytest
from test_old_runs import FLAGS, GOLDEN
from whole_runs import checkpoint_steps, command, rows, summary

from repre_jax import pretrain
from repre_jax.errors import UserError
from repre_jax.runs.starts import read_starts
from repre_jax.sharding import make_mesh
from repre_jax.training import placement

LEARNING_RATE = "--config.optimizer.learning_rate=0.1"
ACCUMULATE = "--config.train.accumulate=2"


@pytest.fixture
def stopped(tmp_path):
    return shutil.copytree(GOLDEN, tmp_path / "run")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (LEARNING_RATE, "run of another config (optimizer.learning_rate: 0.0005 -> 0.1)"),
        (ACCUMULATE, "train.accumulate: 1 -> 2 is refused, for model.drop_path draws"),
    ],
)
def test_what_would_train_something_else_is_refused(stopped, capsys, given, said):
    before = (stopped / "config.json").read_text()
    assert command(*FLAGS, f"--workdir={stopped}", "--config.train.devices=8", given) == 2
    assert said in capsys.readouterr().err
    assert (stopped / "config.json").read_text() == before


CHANGED = {
    "train.devices": 8,
    "train.shard_state": True,
    "model.remat": "block",
    "evaluation.neighbours": 3,
}
GIVEN = [f"--config.{key}={value}" for key, value in CHANGED.items()]


def test_what_changes_is_told_and_kept(stopped, capsys, monkeypatch):
    def no_step(*unused):
        raise UserError("Enough.")

    monkeypatch.setattr(pretrain, "train", no_step)
    assert command(*FLAGS, f"--workdir={stopped}", *GIVEN) == 2
    lines = [
        "evaluation.neighbours: 5 -> 3",
        'model.remat: "none" -> "block"',
        "train.devices: 1 -> 8",
        "train.shard_state: false -> true",
    ]
    out = capsys.readouterr().out
    assert f"Changed since the last start: {'; '.join(lines)}. Images, views and draws" in out
    assert "no longer bit for bit. evaluation.* changes no weight" in out
    assert "Resumed at step 2." in out
    assert read_starts(stopped)[-1]["changed"] == lines
    config = json.loads((stopped / "config.json").read_text())
    assert (config["train"]["devices"], config["model"]["remat"]) == (8, "block")

    assert command(*FLAGS, f"--workdir={stopped}", *GIVEN) == 2
    assert "Changed" not in capsys.readouterr().out
    assert "changed" not in read_starts(stopped)[-1]

    monkeypatch.setattr(pretrain, "make_mesh", lambda devices: make_mesh(4))
    assert command(*FLAGS, f"--workdir={stopped}", *GIVEN) == 2
    assert "Changed since the last start: devices: 8 x cpu -> 4 x cpu." in capsys.readouterr().out


def test_too_little_memory_is_told_with_the_ways_out(stopped, capsys, monkeypatch):
    def too_large(*unused):
        return jax.block_until_ready(jax.jit(lambda: jnp.zeros(2**44))())

    monkeypatch.setattr(pretrain, "train", too_large)
    assert command(*FLAGS, f"--workdir={stopped}") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: The devices have too little memory (Out of memory allocating")
    assert (
        f"Checkpoints in {stopped / 'checkpoints'} are intact. Set more train.devices or "
        "train.shard_state=True, which" in said
    )
    assert "train.accumulate" not in said, "it cannot change under drop path"
    assert said.count("\n") == 1
    assert checkpoint_steps(stopped) == [2]


@pytest.mark.slow
def test_it_goes_on_on_eight_devices_with_remat(stopped, monkeypatch):
    """Numbers of a step agree to 1e-4, those of k-NN aside, which has other neighbours."""
    monkeypatch.setattr(placement, "SMALLEST_SHARED", 64)  # the encoder is small
    assert command(*FLAGS, f"--workdir={stopped}", *GIVEN) == 0
    expected = json.loads((GOLDEN / "went_on.json").read_text())["rows"]
    for row, wanted in zip(rows(stopped)[2:], expected, strict=True):
        wanted = {key: value for key, value in wanted.items() if not key.startswith("knn/")}
        assert {key: row[key] for key in wanted} == pytest.approx(wanted, rel=1e-4)
    assert summary(stopped)["steps"] == 4
