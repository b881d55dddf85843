"""Compiled programs on disk: where, when not, and never an end of a run."""

import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import jax
import pytest
from whole_runs import ROOT

from repre_jax import compilation_cache
from repre_jax.compilation_cache import keep_compiled_programs

PROGRAM = """
import jax
from repre_jax.compilation_cache import keep_compiled_programs
print(keep_compiled_programs())
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
print(float(jax.jit(lambda x: x * 3)(2.0)))
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home of its own, and JAX's settings as they were afterwards."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    before = jax.config.jax_compilation_cache_dir
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)


def program(home: Path) -> tuple[str, str]:
    """What a small program says: (standard output, standard error)."""
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, done.stderr


def test_programs_are_kept_and_damage_is_no_matter(home):
    assert program(home) == ("\n6.0\n", "")
    folder = home / ".cache" / "repre_jax" / "compiled"
    kept = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 100]
    assert kept
    for path in kept:
        path.write_bytes(path.read_bytes()[:50])
    assert program(home) == ("\n6.0\n", "")


def test_another_folder_and_none(home, monkeypatch):
    for folder in ("", str(home / "elsewhere")):
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", folder)
        assert keep_compiled_programs() == ""
        assert list(home.iterdir()) == []


def test_a_home_that_is_none(home):
    (home / ".cache").write_text("")
    said = keep_compiled_programs()
    assert said.startswith(f"Compiled programs are not kept in {home}") and said.endswith(".")


def test_no_home(home, monkeypatch):
    monkeypatch.setattr(compilation_cache.os.path, "expanduser", lambda path: path)
    assert keep_compiled_programs().endswith("every start compiles: this user has no home.")


def test_a_full_disk(home, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(compilation_cache.shutil, "disk_usage", lambda _: usage(10**6))
    assert keep_compiled_programs().endswith("every start compiles: the disk is nearly full.")


def test_the_oldest_make_room(home, monkeypatch):
    monkeypatch.setattr(compilation_cache, "_MOST_BYTES", 25)
    keep_compiled_programs()
    (folder,) = (home / ".cache" / "repre_jax" / "compiled").iterdir()  # of this CPU
    for number in range(4):
        path = folder / str(number)
        path.write_bytes(bytes(10))
        os.utime(path, (number, number))
    keep_compiled_programs()
    assert sorted(path.name for path in folder.iterdir()) == ["2", "3"]
