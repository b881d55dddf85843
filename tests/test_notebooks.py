"""The notebooks are their scripts, name configs that there are, and run from top to bottom."""

import importlib.util
import json
import re
import sys

import cv2
import numpy as np
import pytest
from whole_runs import ROOT

from repre_jax.config_files import read_config
from repre_jax.data.sources.source import SPLITS

COLAB = ROOT / "colab"
spec = importlib.util.spec_from_file_location("make_notebooks", COLAB / "make.py")
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)

NAMES = [script.stem for script in make.scripts()]


def test_cells_of_a_script():
    script = '# %% [markdown]\n# # Title\n# Text\n\n# %% tags=["a"]\nx = 1  # one\n# !ls {x}\n'
    text, code = make.notebook(script)["cells"]
    assert (text["cell_type"], text["source"]) == ("markdown", "# Title\nText")
    assert (code["cell_type"], code["source"]) == ("code", "x = 1  # one\n!ls {x}")
    assert code["metadata"]["tags"] == ["a"]
    with pytest.raises(ValueError, match="begins with 'x = 1'"):
        make.notebook("x = 1\n")


def test_every_notebook_has_a_script():
    assert {path.stem for path in COLAB.glob("*.ipynb")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_its_script_without_outputs(name):
    script = COLAB / f"{name}.py"
    assert script.with_suffix(".ipynb").read_text() == make.written(script), "python colab/make.py"


@pytest.mark.parametrize("name", NAMES)
def test_its_commands_are_of_configs_that_there_are(name):
    named = re.findall(r"--config=([\w/:,]+)", (COLAB / f"{name}.py").read_text())
    assert named
    for config in named:
        read_config(config)


def shrunk(source: str) -> str:
    """A cell with this checkout's command, and every config at its smallest."""
    source = re.sub(r"--config=([\w/]+:[\w,]+|[\w/]+)", _smoke, source)
    source = source.replace("recipe.epochs=5", "recipe.epochs=1")
    return source.replace("!repre-jax", f"!{sys.executable} {ROOT / 'main.py'}")


def _smoke(found: re.Match) -> str:
    config = found[1]
    takes = config.split(":")[0].split("/")[-1] not in ("import", "export", "report")
    return f"--config={config}" + (("," if ":" in config else ":") + "smoke") * takes


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_from_top_to_bottom(name, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    rng = np.random.default_rng(0)
    labelled = [f"imagenette2-160/{split}/{label}" for split in SPLITS for label in "ab"]
    for folder in ("my_images", *labelled):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(40):
            image = rng.integers(0, 255, (40, 50, 3), np.uint8)
            cv2.imwrite(str(tmp_path / folder / f"{number}.png"), image)
    notebook = nbformat.from_dict(json.loads((COLAB / f"{name}.ipynb").read_text()))
    notebook.cells = [
        cell
        for cell in notebook.cells
        if not {"install", "network"} & set(cell.metadata.get("tags", ()))
    ]
    for cell in notebook.cells:
        cell.source = shrunk(cell.source)
    client = nbclient.NotebookClient(
        notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    told = [output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ())]
    assert not [text for text in told if re.search(r"^error: |Traceback", text, re.M)], told
