import json
import sys

import pytest

from repre_jax.runs.folder import RunFolder, saved_config
from repre_jax.runs.starts import note_start, read_starts, starts_path, typed


@pytest.fixture
def noted(tmp_path, monkeypatch):
    """Function: the start that a process of these arguments notes."""

    def note(*arguments):
        monkeypatch.setattr(sys, "argv", list(arguments))
        folder = RunFolder(tmp_path / "run", {})
        note_start(folder, step=7, devices=8)
        folder.close()
        return read_starts(folder.path)[-1]

    return note


def test_every_process_of_a_run_is_noted(noted, tmp_path):
    first = noted("/somewhere/main.py", "--config=configs/dino_vits.py:baseline,smoke", "--x=a b")
    assert first["command"] == (
        "python main.py --config=configs/dino_vits.py:baseline,smoke '--x=a b'"
    )
    assert first["config"] == "dino_vits:baseline,smoke"
    assert (first["step"], first["devices"]) == (7, "8 x cpu")
    assert first["versions"]["jax"].count(".") == 2
    assert "changed" not in first
    second = noted("/bin/repre-jax", "--config=dino_vits")
    assert second["command"] == "repre-jax --config=dino_vits"
    assert read_starts(tmp_path / "run") == [first, second]


@pytest.mark.parametrize("program", ["/bin/notebook", "/site/pytest/__main__.py"])
def test_a_program_that_calls_the_package_is_no_command(noted, program):
    start = noted(program, "--config=dino_vits", "--token=secret")
    assert (start["command"], start["config"]) == (None, None)


def test_the_package_as_a_command(noted):
    start = noted("/site/repre_jax/__main__.py", "--config=dino_vits")
    assert start["command"] == "python -m repre_jax --config=dino_vits"


def test_what_to_type_is_quoted(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/bin/repre-jax", "--config=dino_vits"])
    assert typed("--config=look", "--config.checkpoint=/my runs/a") == (
        "repre-jax --config=look '--config.checkpoint=/my runs/a'"
    )
    monkeypatch.setattr(sys, "argv", ["main.py"])
    monkeypatch.setattr(sys, "orig_argv", [".venv/bin/python", "main.py"])
    assert typed("--config=look") == ".venv/bin/python main.py --config=look"
    monkeypatch.setattr(sys, "argv", ["/site/repre_jax/__main__.py"])
    assert typed("--config=look") == ".venv/bin/python -m repre_jax --config=look"


@pytest.mark.parametrize(
    ("starts", "dtype"),
    [
        (["1 x cpu"], "float32"),
        (["1 x cpu", "8 x NVIDIA H100 80GB HBM3"], "bfloat16"),
        ([], "float32"),  # of an older version: as here
    ],
)
def test_a_run_of_an_older_version_has_the_compute_dtype_of_its_devices(tmp_path, starts, dtype):
    saved = {"train": {"compute_dtype": "auto"}}
    (tmp_path / "config.json").write_text(json.dumps(saved))
    lines = [json.dumps({"devices": devices}) + "\n" for devices in starts]
    starts_path(tmp_path).write_text("".join(lines))
    assert saved_config(tmp_path)["train"]["compute_dtype"] == dtype


def test_a_run_of_an_older_version_has_no_starts(tmp_path):
    assert read_starts(tmp_path) == []
