"""An import from the command line: a run like others, and nothing left behind by a refused one."""

import json

import jax
import numpy as np
import pytest
from foreign_weights import random_params, vit
from safetensors.numpy import save_file

import repre_jax
from repre_jax.command_line import main
from repre_jax.convert.names import to_theirs
from repre_jax.convert.tables import VIT
from repre_jax.errors import UserError
from repre_jax.evaluation import TASKS
from repre_jax.evaluation.checkpoint import open_pretrained


def params() -> dict:
    return random_params(vit())


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A file of DINO's, beside an empty folder ``runs``, in the working directory."""
    monkeypatch.chdir(tmp_path)
    state = to_theirs(VIT, params(), (3,), heads=2)
    state["head.mlp.0.weight"] = np.ones((2, 2), np.float32)
    save_file({n: np.ascontiguousarray(x) for n, x in state.items()}, "dino.safetensors")
    return tmp_path / "dino.safetensors"


def command(source, *more) -> int:
    return main(["x", "--config=import", f"--config.source={source}", "--config.heads=2", *more])


def assert_same_tree(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_an_import_is_a_run_that_is_opened_as_others_are(source, capsys):
    assert command(source, "--config.data.source=digits") == 0
    said = capsys.readouterr().out
    assert "1 dropped (head.mlp.0.weight)" in said
    assert "evaluate it with --config.checkpoint=runs/dino" in said
    pretrained = open_pretrained("runs/dino")
    assert (pretrained.step, pretrained.weights, pretrained.method) == (0, "target", "dino")
    assert pretrained.defaults.linear == "dino"
    assert pretrained.config.data.source == "digits"
    assert_same_tree(pretrained.load_params(), params())
    about = source.parent / "runs/dino/checkpoints/0/about/metadata"
    assert len(json.loads(about.read_text())["sha256"]) == 64
    with pytest.raises(UserError, match="has no online network: set weights=target"):
        open_pretrained("runs/dino", weights="online")
    random = open_pretrained("runs/dino", weights="random")
    assert (random.weights, random.params) == ("random", None)
    assert random.fingerprint != pretrained.fingerprint


def test_the_file_itself_is_opened_where_a_run_is(tmp_path, monkeypatch, capsys):
    """Of a width whose heads are known, so that nothing has to be told."""
    monkeypatch.chdir(tmp_path)
    encoder = vit(width=192, depth=1, heads=3)
    state = to_theirs(VIT, random_params(encoder), (1,), heads=3)
    save_file({n: np.ascontiguousarray(x) for n, x in state.items()}, "dino.safetensors")
    loaded = repre_jax.load("dino.safetensors", compute_dtype="float32")
    assert "width 192, 1 blocks, heads 3" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [tmp_path / "dino.safetensors"], "nothing is written"
    assert loaded.pretrained.run == tmp_path / "runs/dino"
    assert main(["x", "--config=import", "--config.source=dino.safetensors"]) == 0
    imported = repre_jax.load("runs/dino", compute_dtype="float32")
    assert_same_tree(loaded.params, imported.params)
    assert loaded.pretrained.encoder == imported.pretrained.encoder
    assert loaded.pretrained.defaults == imported.pretrained.defaults
    with pytest.raises(UserError, match="is a file of one step"):
        open_pretrained("dino.safetensors", step=3)
    random = open_pretrained("dino.safetensors", weights="random")
    assert (random.weights, random.params) == ("random", None)


def test_the_same_import_again_is_the_same_run_and_another_is_refused(source, capsys):
    assert command(source) == command(source) == 0
    state = to_theirs(VIT, random_params(vit(), seed=1), (3,), heads=2)
    save_file({n: np.ascontiguousarray(x) for n, x in state.items()}, source)
    assert command(source) == 2
    assert "holds a run of another config (source.sha256" in capsys.readouterr().err
    assert_same_tree(open_pretrained("runs/dino").load_params(), params())


def test_what_an_import_that_was_cut_off_has_left_is_written_anew(source, capsys):
    assert command(source) == 0
    run = source.parent / "runs/dino"
    (run / "config.json").unlink()  # which is written last
    other = random_params(vit(), seed=1)
    state = to_theirs(VIT, other, (3,), heads=2)
    save_file({n: np.ascontiguousarray(x) for n, x in state.items()}, source)
    assert command(source) == 0
    assert_same_tree(open_pretrained("runs/dino").load_params(), other)
    (run / "config.json").unlink()
    (run / "checkpoints/0").rename(run / "checkpoints/7")
    assert command(source) == 2
    assert "holds checkpoints and no config.json" in capsys.readouterr().err
    assert not (run / "config.json").exists() and (run / "checkpoints/7").is_dir()


def test_an_import_is_the_work_of_one_process(source, monkeypatch, capsys):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert command(source) == 2
    assert "one process: leave out --distributed" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_evaluation_runs_on_an_import(source, task):
    assert command(source, "--config.data.source=digits") == 0
    assert main(["x", f"--config=eval/{task}:smoke", "--config.checkpoint=runs/dino"]) == 0
    (results,) = source.parent.glob(f"runs/dino/eval/{task}-target-0-*/results.json")
    assert json.loads(results.read_text())["method"] == "dino"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--config.source=",), "source is empty"),
        (("--config.weights=online",), "has target weights alone"),
        (("--config.heads=0",), "heads=0 must be at least 1"),
        (("--config.image_size=33",), "no multiple of its patch"),
        (("--config.data.path=x", "--config.data.source=digits"), "data.path"),
    ],
    ids=lambda x: "" if isinstance(x, str) else x[0],
)
def test_a_refused_import_leaves_nothing_behind(source, arguments, words, capsys):
    assert command(source, *arguments) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert list(source.parent.iterdir()) == [source]
