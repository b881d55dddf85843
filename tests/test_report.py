"""The page on demand and at the end of a run; a page that fails loses no run."""

from types import SimpleNamespace

import pytest
from recorded_runs import recorded_run
from whole_runs import command

from repre_jax import pretrain
from repre_jax.convert.foreign import imported_config


def test_the_page_goes_to_the_first_run_or_to_the_workdir(tmp_path, capsys, monkeypatch):
    a, b = recorded_run(tmp_path / "a"), recorded_run(tmp_path / "b", finished=True)
    assert command("--config=report", f"--config.runs={a},{b}") == 0
    assert capsys.readouterr().out == f"Report: {a / 'report.html'}\n"
    assert "2 runs side by side" in (a / "report.html").read_text()
    assert not (b / "report.html").exists()
    assert (
        command("--config=report", f"--config.runs={tmp_path}/[ab]", f"--workdir={tmp_path}") == 0
    )
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config.runs={}/none"], "matches no folder with config.json"),
        (["--config.runs="], "matches no folder with config.json"),
        (["--config.runs={}/probe"], "is a run of task linear: give the folder of a pre-training"),
        (["--config.runs={}/imported"], "imported holds imported weights, which have no curves"),
        (["--config.runs={}/a", "--config.reference=mine"], "There is no reference 'mine'"),
    ],
)
def test_mistakes(tmp_path, capsys, arguments, words):
    recorded_run(tmp_path / "a")
    recorded_run(tmp_path / "probe")
    imported_run(tmp_path / "imported")
    (tmp_path / "probe" / "config.json").write_text('{"task": "linear"}')
    assert command("--config=report", *(x.format(tmp_path) for x in arguments)) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert not list(tmp_path.rglob("report.html"))


def test_imported_weights_are_left_out_of_a_pattern(tmp_path, capsys):
    imported_run(tmp_path / "a")
    b = recorded_run(tmp_path / "b")
    assert command("--config=report", f"--config.runs={tmp_path}/*") == 0
    left_out, written = capsys.readouterr().out.splitlines()
    assert left_out == f"Left out, for imported weights have no curves: {tmp_path / 'a'}."
    assert written == f"Report: {b / 'report.html'}"


def imported_run(path):
    """What ``import_weights`` leaves, but for the weights."""
    path.mkdir()
    config = imported_config("dino").to_json()
    (path / "config.json").write_text(config)


def test_a_run_has_its_page_at_the_end(tmp_path, capsys):
    run = recorded_run(tmp_path / "a", finished=True)
    pretrain.report_on(SimpleNamespace(path=run))
    assert capsys.readouterr().out == ""
    assert "Finished: 4 steps" in (run / "report.html").read_text()


def test_a_page_that_fails_is_one_sentence(tmp_path, capsys, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("a mistake\nin two lines")

    monkeypatch.setattr(pretrain, "write_report", fail)
    pretrain.report_on(SimpleNamespace(path=tmp_path))
    told = capsys.readouterr().out
    assert told == (
        "The report of this run could not be written (ZeroDivisionError: a mistake in two lines); "
        "the run itself is whole.\n"
    )
