import json
import subprocess
import types
from pathlib import Path

import pytest

from benchmarks import evaluation
from repre_jax.errors import UserError


@pytest.fixture
def options(tmp_path):
    """The benchmark's options, its outputs in a temporary folder."""

    def parse(*given):
        out = [f"--runs={tmp_path / 'runs'}", f"--out={tmp_path / 'out.json'}"]
        evaluation.OPTIONS.unparse_flags()
        evaluation.OPTIONS(["program", "--checkpoints=a=runs/a,b=runs/b", *out, *given])
        return tmp_path

    yield parse
    for name in evaluation.OPTIONS:
        evaluation.OPTIONS[name].unparse()
    evaluation.OPTIONS.mark_as_parsed()


def fake_main(commands, *, fail_on=()):
    """Stands in for main.py: writes results whose value depends on row and seed."""

    def run(command, **_):
        commands.append(command[2:])
        given = dict(argument.split("=", 1) for argument in command[2:])
        folder = Path(given["--workdir"])
        if folder.name in fail_on:
            return subprocess.CompletedProcess(command, 2)
        folder.mkdir(parents=True, exist_ok=True)
        value = 0.3 if given["--config.weights"] == "random" else 0.5
        result = {
            "value": value + 0.1 * int(given["--config.seed"]),
            "protocol": "p",
            "formula": "f",
            "weights": given["--config.weights"],
            "step": 3,
            "commit": "c",
            "wall_seconds": 30.0,
            "metrics": {},
        }
        if "linear" in folder.name:
            result["spread"] = 0.01
        (folder / "results.json").write_text(json.dumps(result))
        return subprocess.CompletedProcess(command, 0)

    return run


def test_checkpoints_are_names_and_folders():
    given = ["a=runs/a", "b=runs/b"]
    assert evaluation.checkpoints(given) == {"a": "runs/a", "b": "runs/b"}
    for wrong in (["a"], ["a=x", "a=y"], ["=x"]):
        with pytest.raises(UserError, match="takes <name>=<run folder>"):
            evaluation.checkpoints(wrong)


def test_runs_that_began_as_the_same_share_a_row(monkeypatch):
    def opened(folder, weights):
        assert weights == "random"
        return types.SimpleNamespace(fingerprint=folder[-1])  # of architecture and seed

    monkeypatch.setattr(evaluation, "open_pretrained", opened)
    runs = {"a": "runs/1", "b": "runs/2", "c": "other/1"}
    assert evaluation.rows_of(runs, evaluation.beginnings(runs)) == {
        "random:a": ("runs/1", "random"),
        "random:b": ("runs/2", "random"),
        "a": ("runs/1", "auto"),
        "b": ("runs/2", "auto"),
        "c": ("other/1", "auto"),
    }


def test_a_cell_is_one_evaluation_or_one_for_every_seed(options):
    root = options("--seeds=2", "--data=/images", "--finetune_flags=--config.recipe.epochs=1")
    knn = evaluation.cell_commands("a", "runs/a", "auto", "knn")
    assert list(knn) == [root / "runs" / "a-knn-0"]
    finetune = evaluation.cell_commands("random:a", "runs/a", "random", "finetune")
    assert [path.name for path in finetune] == ["random-a-finetune-0", "random-a-finetune-1"]
    for seed, arguments in enumerate(finetune.values()):
        assert f"--config.seed={seed}" in arguments
        assert {"--config.weights=random", "--config.data.path=/images"} <= set(arguments)
        assert "--config.recipe.epochs=1" in arguments
    (linear,) = evaluation.cell_commands("a", "runs/a", "auto", "linear").values()
    assert "--config.seeds=2" in linear


def test_the_table_is_filled_and_goes_on_where_it_stopped(options, monkeypatch, capsys):
    root = options("--tasks=knn,linear,finetune", "--seeds=2")
    commands = []
    monkeypatch.setattr(evaluation, "provenance", lambda **_: {"commit": "c"})
    untrained = {"a": "random:a", "b": "random:a"}
    monkeypatch.setattr(evaluation, "beginnings", lambda runs: untrained)
    run = fake_main(commands, fail_on=("b-finetune-1",))
    monkeypatch.setattr(evaluation.subprocess, "run", run)
    with pytest.raises(UserError, match="b finetune did not finish"):
        evaluation.main(["program"])
    written = json.loads((root / "out.json").read_text())["rows"]
    assert set(written["a"]) == {"knn", "linear", "finetune"}
    assert set(written["b"]) == {"knn", "linear"}

    monkeypatch.setattr(evaluation.subprocess, "run", fake_main(commands))
    evaluation.main(["program"])
    rows = json.loads((root / "out.json").read_text())["rows"]
    cell = rows["b"]["finetune"]
    assert cell["values"] == pytest.approx([0.5, 0.6])
    assert cell["value"] == pytest.approx(0.55)
    assert cell["spread"] == pytest.approx(0.0707, abs=1e-4)
    assert cell["wall_seconds"] == 60
    assert rows["a"]["knn"]["spread"] is None
    out = capsys.readouterr().out
    assert "50.0 % +- 1.0" in out  # linear
    assert "b: fine-tuned +20.0 points over from scratch" in out

    commands.clear()
    evaluation.OPTIONS["rows"].value = ["random:a"]
    evaluation.main(["program"])
    assert {argument for c in commands for argument in c if "weights" in argument} == {
        "--config.weights=random"
    }
