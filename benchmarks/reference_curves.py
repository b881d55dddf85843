"""Makes the reference curves of reports from the results of the runs on imagenette.

    python -m benchmarks.reference_curves

Every result of a config file's own settings goes, thinned, to
``repre_jax/visualize/report/references/<config>-<variants>.json``.
"""

import json
import re
import shlex
from pathlib import Path
from typing import Any

from benchmarks.provenance import RESULTS, write_result
from repre_jax.config_files import read_config
from repre_jax.visualize.report.references import FOLDER

_MOST_ROWS = 120
# Overrides that leave the settings of the config file as they are, or only its length.
_HARMLESS = re.compile(
    r"--config\.(data\.path=.*|logging\..*|evaluation\..*|seed=0|train\.steps=.*"
    r"|repre\.weighting=learned)|--workdir=.*"
)


def reference(result: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """(its name, the reference) of a result; None for one of other settings, or without curves."""
    if "curves" not in result:
        return None
    arguments = shlex.split(result["command"])[2:]
    (config,) = (x.partition("=")[2] for x in arguments if x.startswith("--config="))
    others = [x for x in arguments if not x.startswith("--config=")]
    if not all(_HARMLESS.fullmatch(argument) for argument in others):
        return None
    file, colon, variants = config.partition(":")
    named = f"{Path(file).stem}{colon}{variants}"
    start = result["starts"][0]
    curves = dict(result["curves"])
    rows = kept_rows(curves)
    steps = curves.pop("step")
    return re.sub("[:,]", "-", named), {
        "config": named,
        "method": read_config(named).method.name,
        "command": result["command"],
        "commit": start["commit"],
        "date": start["date"],
        "steps": [int(steps[row]) for row in rows],
        "curves": {key: [values[row] for row in rows] for key, values in curves.items()},
    }


def kept_rows(curves: dict[str, list[float | None]]) -> list[int]:
    """Rows evenly spread over the run, and every one that has a k-NN."""
    count = len(curves["step"])
    every = -(-count // _MOST_ROWS)
    measured = [row for row, value in enumerate(curves.get("knn/top1", ())) if value is not None]
    return sorted({*range(0, count, every), count - 1, *measured})


def main() -> None:
    """Writes all references anew."""
    for path in sorted(RESULTS.glob("imagenette*_cpu*/*.json")):
        made = reference(json.loads(path.read_text()))
        if made:
            name, contents = made
            write_result(FOLDER / f"{name}.json", contents)
            print(f"{path.relative_to(RESULTS)} -> {name}.json")


if __name__ == "__main__":
    main()
