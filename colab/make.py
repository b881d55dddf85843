"""Makes the notebooks of this folder from the scripts beside them: ``python colab/make.py``.

A script is a notebook in the percent format: "# %%" begins a cell of code, "# %% [markdown]" one
of text, whose lines are comments; "# !command" in code is a command of the shell. Tags may follow,
as in '# %% tags=["network"]', and go into the notebook.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
_CELL = re.compile(r"^# %%(?P<text> \[markdown\])?(?: tags=(?P<tags>\[.*\]))?$")


def scripts() -> list[Path]:
    """The scripts that are notebooks."""
    return sorted(path for path in FOLDER.glob("*.py") if path.name != Path(__file__).name)


def notebook(script: str) -> dict[str, Any]:
    """The notebook of a script, by Jupyter's format 4.5, without outputs.

    Raises:
      ValueError: it does not begin with a cell.
    """
    cells: list[dict[str, Any]] = []
    for line in script.splitlines():
        begins = _CELL.match(line)
        if begins:
            cells.append(_cell(len(cells), begins))
        elif not cells:
            raise ValueError(f"the script begins with {line!r}, not with a cell")
        else:
            text = cells[-1]["cell_type"] == "markdown"
            cells[-1]["source"].append(re.sub(r"^# ?", "", line) if text else _code(line))
    for cell in cells:
        cell["source"] = "\n".join(cell["source"]).strip("\n")
    return {
        "cells": cells,
        "metadata": {
            "accelerator": "TPU",
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def written(script: Path) -> str:
    """The text of the notebook's file."""
    return json.dumps(notebook(script.read_text()), indent=1, ensure_ascii=False) + "\n"


def _cell(number: int, begins: re.Match) -> dict[str, Any]:
    cell = {"id": f"cell-{number}", "metadata": {}, "source": []}
    if begins["tags"]:
        cell["metadata"]["tags"] = json.loads(begins["tags"])
    if begins["text"]:
        return {"cell_type": "markdown"} | cell
    return {"cell_type": "code", "execution_count": None, "outputs": []} | cell


def _code(line: str) -> str:
    return re.sub(r"^(\s*)# !", r"\1!", line)


if __name__ == "__main__":
    for script in scripts():
        script.with_suffix(".ipynb").write_text(written(script))
        print(script.with_suffix(".ipynb"), file=sys.stderr)
