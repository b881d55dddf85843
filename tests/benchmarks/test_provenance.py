"""What a benchmark records about itself."""

import shlex
import sys

import pytest

from benchmarks.provenance import finished_rows, provenance, write_result
from repre_jax.errors import UserError


def test_the_command_can_be_pasted_into_a_shell(monkeypatch):
    """Brackets of a tuple and spaces arrive again as they were given."""
    given = ["--linear_flags=--config.rate_factors=(0.1,1.0)", "--data=/my images"]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *given])
    assert shlex.split(provenance()["command"])[-2:] == given


def test_rows_of_the_same_command_commit_and_machine_are_kept(tmp_path):
    result = {"command": "a", "commit": "c0ffee", "date": "today", "batch_size": 2}
    path = tmp_path / "overhead.json"
    rows = {"dino_vits": {}}
    assert finished_rows(path, result, rows) == {}
    write_result(path, result | {"rows": rows})
    assert finished_rows(path, result | {"date": "tomorrow"}, rows) == rows
    for key in ("command", "commit", "batch_size"):
        assert finished_rows(path, result | {key: "other"}, rows) == {}
    with pytest.raises(UserError, match=r"does not make \(dino_vits\)"):
        finished_rows(path, result | {"commit": "other"}, ["moby_swint"])
    changed = result | {"commit": "c0ffee+changes"}
    write_result(path, changed | {"rows": rows})
    assert finished_rows(path, changed, rows) == {}
