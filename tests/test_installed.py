"""The wheel, away from the checkout: its command, its configs, and a run opened with two lines."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from whole_runs import ROOT

import repre_jax


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Function: runs a command of the installed package in a folder that holds nothing else."""
    site, elsewhere = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("elsewhere")
    pip("install", "--target", site, wheel)

    def run(*command: str | Path) -> subprocess.CompletedProcess:
        return subprocess.run(
            command,
            cwd=elsewhere,
            env=os.environ | {"PYTHONPATH": str(site), "PATH": f"{site / 'bin'}:{os.defpath}"},
            capture_output=True,
            text=True,
            timeout=600,
        )

    return run


def pip(*arguments: str | Path) -> None:
    """Builds or installs with what is there; nothing is downloaded."""
    options = ["--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    command = [sys.executable, "-m", "pip", arguments[0], *options, *arguments[1:]]
    subprocess.run(command, check=True)


def test_the_wheel_holds_the_package_and_the_configs_and_nothing_else(wheel):
    package = {path.relative_to(ROOT) for path in (ROOT / "repre_jax").rglob("*.py")}
    page = ROOT / "repre_jax/visualize/report"
    assets = [page / "page.css", page / "page.js", *page.glob("references/*.json")]
    package |= {path.relative_to(ROOT) for path in assets}
    configs = {"repre_jax" / path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.py")}
    configs |= {Path("repre_jax/configs/README.md")}
    with zipfile.ZipFile(wheel) as archive:
        files = {Path(name) for name in archive.namelist()}
        (about,) = {path.parts[0] for path in files} - {"repre_jax"}
        metadata = archive.read(f"{about}/METADATA").decode()
    assert {path for path in files if path.parts[0] == "repre_jax"} == package | configs
    assert f"Version: {repre_jax.__version__}\n" in metadata
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    needed = [line for line in lines if not line.startswith("#")]
    asked = [line for line in metadata.splitlines() if line.startswith("Requires-Dist: ")]
    assert len([line for line in asked if "extra ==" not in line]) == len(needed) > 10


# As a process that reads images imports the script which began the run.
AS_A_WORKER = "import runpy, shutil; runpy.run_path(shutil.which('repre-jax'), run_name='worker')"


@pytest.mark.parametrize("code", ["import repre_jax", AS_A_WORKER])
def test_importing_the_package_or_the_command_is_light(installed, code):
    told = installed(sys.executable, "-c", f"{code}; import sys; print(*sys.modules)")
    assert "repre_jax" in told.stdout.split()
    assert not {"jax", "flax", "numpy", "absl"} & set(told.stdout.split())


def test_the_package_is_a_command(installed):
    told = installed(sys.executable, "-m", "repre_jax", "--help")
    assert (told.returncode, told.stderr) == (0, "")
    assert "--config=" in told.stdout


@pytest.mark.slow
def test_explaining_a_carried_config(installed):
    told = installed("repre-jax", "--config=dino_vits:smoke", "--explain")
    assert (told.returncode, told.stderr) == (0, "")
    assert "method          dino, RePre on" in told.stdout
    assert "model.drop_path = 0.1   [dino_vits.py; default 0.0]" in told.stdout


OPENED = """
import numpy as np, repre_jax
print(repre_jax.__file__)
print(*repre_jax.METHODS)
encoder = repre_jax.load("runs/quickstart-smoke-digits")
print(encoder.features(np.zeros((2, 32, 32, 3), np.uint8)).shape)
"""


@pytest.mark.slow
def test_a_run_and_what_becomes_of_it(installed):
    trained = installed("repre-jax", "--config=quickstart:smoke")
    assert trained.returncode == 0, trained.stderr
    assert "Done: 4 steps" in trained.stdout
    run = "--config.checkpoint=runs/quickstart-smoke-digits"
    judged = installed("repre-jax", "--config=eval/knn", run)
    assert judged.returncode == 0, judged.stderr
    assert "k-NN top-1" in judged.stdout
    opened = installed(sys.executable, "-c", OPENED)
    assert opened.returncode == 0, opened.stderr
    place, methods, shape = opened.stdout.splitlines()
    assert not Path(place).is_relative_to(ROOT)
    assert methods.split() == list(repre_jax.METHODS)
    assert shape == "(2, 128)"
