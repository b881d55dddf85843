"""An export from the command line and from Python: the weights that were asked for."""

import jax
import numpy as np
import pytest
from tiny import saved_run

import repre_jax
from repre_jax.command_line import main
from repre_jax.convert.foreign import read_foreign


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A DINO run with random numbers in all its parameters."""
    return saved_run(tmp_path_factory.mktemp("runs") / "dino", "dino", steps=(7,))


def assert_holds(folder, params):
    jax.tree.map(np.testing.assert_array_equal, read_foreign(folder).params, params)


@pytest.mark.parametrize(
    ("arguments", "weights", "part"),
    [
        ((), "target", "target_params"),
        (("--config.weights=online", "--config.step=7"), "online", "params"),
    ],
    ids=["as evaluated", "as asked for"],
)
def test_the_weights_that_were_asked_for(run, capsys, arguments, weights, part):
    command = ["x", "--config=export", f"--config.checkpoint={run.folder}"]
    command += ["--config.format=huggingface", *arguments]
    assert main(command) == 0
    folder = run.folder / "export" / f"huggingface-{weights}-7"
    assert f"Exported to {folder}" in capsys.readouterr().out
    assert_holds(folder, getattr(run.states[7], part)["encoder"])
    assert main(command) == 2
    assert "is there already" in capsys.readouterr().err


def test_save_from_python_and_a_foreign_file_on_to_another_format(run, tmp_path):
    encoder = repre_jax.load(run.folder)
    encoder.save(tmp_path / "first", format="timm")
    repre_jax.load(tmp_path / "first").save(tmp_path / "second", format="huggingface")
    assert_holds(tmp_path / "second", run.states[7].target_params["encoder"])


def test_mistakes_are_told(run, capsys):
    command = ["x", "--config=export", f"--config.checkpoint={run.folder}"]
    assert main([*command, "--config.format=tensorflow"]) == 2
    assert "format='tensorflow' must be one of timm" in capsys.readouterr().err
    assert main(["x", "--config=export"]) == 2
    assert "checkpoint is empty" in capsys.readouterr().err
