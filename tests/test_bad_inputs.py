"""Mistakes of every kind: exit code 2, one sentence, nothing left behind; all within seconds.

The mistakes are those of ``benchmarks/bad_inputs.py``. The fast tier has every one of the table
that is refused before anything is encoded, and a few that the generator draws; the slow tier has
all.
"""

import itertools

import cv2
import numpy as np
import pytest
from tiny import saved_run
from whole_runs import command, summary

from benchmarks.bad_commands import table
from benchmarks.bad_folders import prepare
from benchmarks.bad_inputs import Outcome, run
from benchmarks.bad_values import generated
from repre_jax.config_files import carried
from repre_jax.evaluation import TASKS
from repre_jax.methods import METHODS

DRAWN = 40  # of the generator's, in the fast tier


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A run with random parameters, and what is wrong with copies of it, images and files."""
    folder = tmp_path_factory.mktemp("bad_inputs").resolve()
    saved = saved_run(folder / "saved", "dino", steps=(3,))
    (folder / "mistakes").mkdir()
    prepare(folder / "mistakes", saved.folder)
    return folder / "mistakes"


@pytest.fixture(scope="module")
def drawn(root):
    """The mistakes that the generator draws first."""
    return generated(root, seed=0)


def faults(cases, root):
    """What is wrong with the answers to mistakes: {arguments: fault}."""
    found = {case.arguments: run(case.arguments, root).fault for case in cases}
    return {" ".join(arguments): fault for arguments, fault in found.items() if fault}


def test_mistakes_with_files_and_commands(root):
    assert faults([case for case in table(root) if case.kind != "unreadable"], root) == {}


@pytest.mark.slow
def test_what_cannot_be_read(root):
    assert faults([case for case in table(root) if case.kind == "unreadable"], root) == {}


def test_mistakes_with_keys(root, drawn):
    assert faults(drawn[:: len(drawn) // DRAWN], root) == {}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_mistakes_with_every_key(root, seed):
    assert faults(generated(root, seed), root) == {}


def test_there_are_enough_mistakes_of_every_kind(root, drawn):
    cases = [*table(root), *drawn]
    assert len({case.arguments for case in cases}) > 200
    assert {"type", "range", "name", "name of a key", "path", "labels", "checkpoint", "images"} <= {
        case.kind for case in cases
    }
    assert drawn == generated(root, 0) != generated(root, 1)


@pytest.mark.parametrize(
    ("outcome", "fault"),
    [
        (Outcome(2, "error: no.\n", [], 1.0), ""),
        (Outcome(0, "", [], 1.0), "ended with 0"),
        (Outcome("KeyError: 'x'", "", [], 1.0), "ended with KeyError: 'x'"),
        (Outcome(2, "error: no.\nwarning\n", [], 1.0), "not one sentence"),
        (Outcome(2, "", [], 1.0), "not one sentence"),
        (Outcome(2, "error: no.\n", ["run/config.json"], 1.0), "left ['run/config.json'] behind"),
        (Outcome(2, "error: no.\n", [], 31.0), "took 31 s"),
    ],
)
def test_what_is_a_fault(outcome, fault):
    assert outcome.fault.startswith(fault) and bool(outcome.fault) == bool(fault)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_equal_images_train_or_are_told_of(method, tmp_path, capsys):
    """64 times the same image, in two classes: finite numbers, or one sentence."""
    picture = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    for split, number in itertools.product(("train", "val"), range(64)):
        path = tmp_path / "images" / split / ("first", "second")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), picture)
    name = f"{method}_vits" if f"{method}_vits" in carried() else f"{method}_vitb"
    data = ("--config.data.source=folder", f"--config.data.path={tmp_path / 'images'}")
    assert command(f"--config={name}:smoke", f"--workdir={tmp_path / 'run'}", *data) == 0
    assert np.isfinite(summary(tmp_path / "run")["loss"])
    of_the_run = [name for name in TASKS if not TASKS[name].own_data]
    for task in of_the_run if method == "dino" else ():  # seconds each; none knows the method
        code = command(f"--config=eval/{task}:smoke", f"--config.checkpoint={tmp_path / 'run'}")
        err = capsys.readouterr().err
        assert code == 0 or (code == 2 and err.startswith("error: ")), err
