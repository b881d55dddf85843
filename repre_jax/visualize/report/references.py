"""The project's own runs, drawn dashed beside a user's: thinned curves that the package carries.

``benchmarks/reference_curves.py`` makes ``references/<name>.json`` from the benchmarks' results.
"""

import difflib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from repre_jax.errors import UserError
from repre_jax.visualize.report.recorded import Curve, RecordedRun

FOLDER = Path(__file__).parent / "references"
NONE = "none"


class Reference(NamedTuple):
    """A run of the project.

    Attributes:
      name: "imagenette_dino-baseline".
      config: "imagenette_dino:baseline", file and variants.
      method: name of its method.
      command, commit, date: of the run, as the benchmark noted them.
      curves: metric -> its curve.
    """

    name: str
    config: str
    method: str
    command: str
    commit: str
    date: str
    curves: dict[str, Curve]


def references(asked: str, runs: list[RecordedRun]) -> list[Reference]:
    """Those to draw beside ``runs``.

    Args:
      asked: name of a reference; "none"; or "" for those of the runs' own config files.
      runs: of the report.

    Raises:
      UserError: there is no such reference, or none of the runs is of its method.
    """
    if asked == NONE:
        return []
    if not asked:
        configs = {_sorted(run.starts[-1].get("config")) for run in runs if run.starts}
        methods = {run.config.method.name for run in runs}
        found = map(read_reference, names())
        return [r for r in found if _sorted(r.config) in configs and r.method in methods]
    if asked not in names():
        near = difflib.get_close_matches(asked, names(), n=1, cutoff=0.3)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names())}."
        raise UserError(f"There is no reference {asked!r}; {hint}")
    reference = read_reference(asked)
    if reference.method not in (run.config.method.name for run in runs):
        raise UserError(f"reference={asked} is a run of {reference.method}, and no run here is.")
    return [reference]


def names() -> list[str]:
    """Of all references."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def read_reference(name: str) -> Reference:
    """The reference of that name."""
    about = json.loads((FOLDER / f"{name}.json").read_text())
    steps = np.array(about.pop("steps"))
    curves = {key: _curve(steps, values) for key, values in about.pop("curves").items()}
    return Reference(name=name, curves=curves, **about)


def _curve(steps: np.ndarray, values: Iterable[float | None]) -> Curve:
    numbers = np.array([np.nan if value is None else value for value in values], float)
    return Curve(steps, numbers).finite  # in these files null is also what a row did not have


def _sorted(config: str | None) -> tuple[str, ...] | None:
    """File and variants, in whichever order these were typed."""
    if config is None:
        return None
    file, _, variants = config.partition(":")
    return (file, *sorted(filter(None, variants.split(","))))
