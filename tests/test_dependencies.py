"""The oldest and the newest versions that requirements.txt allows, in environments of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from whole_runs import ROOT

OLDEST = "constraints-oldest.txt"


def requirements(name: str) -> dict[str, Requirement]:
    """What the file ``name`` asks for, by package."""
    lines = (ROOT / name).read_text().splitlines()
    asked = [Requirement(line) for line in lines if not line.startswith("#")]
    return {requirement.name: requirement for requirement in asked}


def test_the_oldest_versions_are_the_lower_bounds():
    ranges, oldest = requirements("requirements.txt"), requirements(OLDEST)
    assert ranges.keys() == oldest.keys()
    for name, asked in ranges.items():
        (bound,), (pinned,) = asked.specifier, oldest[name].specifier
        assert (bound.operator, pinned.operator) == (">=", "=="), name
        assert pinned.contains(bound.version), name


@pytest.mark.slow
@pytest.mark.parametrize("versions", ["oldest", "newest"])
def test_the_package_installs_trains_and_opens_a_run(versions, tmp_path):
    if versions == "oldest" and sys.version_info[:2] != (3, 11):
        pytest.skip(f"{OLDEST} is for Python 3.11: newer ones have no wheels of some versions")
    python = new_environment(tmp_path / "environment")
    skip_without_index(python, tmp_path)
    constraints = ["-c", ROOT / OLDEST] if versions == "oldest" else []
    done(run(python, "-m", "pip", "install", "--quiet", ROOT, *constraints, folder=tmp_path))

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = python.with_name("repre-jax")
    trained = done(run(command, "--config=quickstart:smoke", folder=elsewhere))
    assert "Done: 4 steps" in trained
    opened = done(run(python, "-c", OPENED, folder=elsewhere))
    assert opened.split() == ["True", "(2,", "128)"]


OPENED = """
import sys
import numpy as np, repre_jax
encoder = repre_jax.load("runs/quickstart-smoke-digits")
print(repre_jax.__file__.startswith(sys.prefix))
print(encoder.features(np.zeros((2, 32, 32, 3), np.uint8)).shape)
"""


def new_environment(folder: Path) -> Path:
    """The interpreter of an environment that holds nothing but pip."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return folder / "bin" / "python"


def skip_without_index(python: Path, folder: Path) -> None:
    """Skips where pip cannot fetch even one small package, into ``folder``."""
    options = ["--quiet", "--no-deps", "--no-cache-dir", "--retries=0", "--timeout=20"]
    fetched = run(python, "-m", "pip", "download", *options, "absl-py", folder=folder)
    if fetched.returncode:
        pytest.skip(f"pip reaches no index: {fetched.stderr.strip().splitlines()[-1]}")


def run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess:
    """Runs a command in ``folder``, out of reach of this checkout."""
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        command, cwd=folder, env=alone, capture_output=True, text=True, timeout=1800
    )


def done(finished: subprocess.CompletedProcess) -> str:
    """What a command printed that must have worked."""
    assert finished.returncode == 0, finished.stderr
    return finished.stdout
