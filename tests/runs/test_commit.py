"""Changes that count as changes of the code, in a repository made for the test."""

import subprocess

import pytest

from repre_jax.runs import commit as module
from repre_jax.runs.commit import code_commit


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    for name in ("repre_jax/runs/commit.py", "configs/dino_vits.py", "benchmarks/results/a.json"):
        file = tmp_path / name
        file.parent.mkdir(parents=True)
        file.write_text("1\n")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(module, "__file__", str(tmp_path / "repre_jax/runs/commit.py"))
    return tmp_path


def test_an_unchanged_checkout_is_its_commit(checkout):
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=checkout, check=True, capture_output=True, text=True
    ).stdout
    assert len(code_commit()) == 12
    assert head.startswith(code_commit())


def test_a_result_being_rewritten_is_no_change_of_the_code(checkout):
    (checkout / "benchmarks/results/a.json").write_text("2\n")
    assert not code_commit().endswith("+changes")


@pytest.mark.parametrize("name", ["repre_jax/runs/commit.py", "configs/dino_vits.py"])
def test_a_changed_file_is_told(checkout, name):
    (checkout / name).write_text("2\n")
    assert code_commit().endswith("+changes")


def test_the_repository_around_an_installed_package_is_none(checkout, monkeypatch):
    installed = checkout / ".venv/repre_jax/runs/commit.py"
    installed.parent.mkdir(parents=True)
    installed.write_text("1\n")
    monkeypatch.setattr(module, "__file__", str(installed))
    assert code_commit() is None


def test_outside_of_a_checkout_there_is_no_commit(tmp_path, monkeypatch):
    (tmp_path / "repre_jax").mkdir()
    monkeypatch.setattr(module, "__file__", str(tmp_path / "repre_jax/runs/commit.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert code_commit() is None
