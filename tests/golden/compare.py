"""Comparison of parameter trees with recorded ones, leaf by leaf, and of what no run can decide."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

FOLDER = Path(__file__).parent  # of the recordings


def flat(tree: Any) -> dict[str, np.ndarray]:
    """{"block_0/norm_1/scale": ...}; the fused qkv bias becomes three leaves."""
    leaves = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name.endswith("qkv/bias"):
            parts = zip(("query", "key", "value"), np.split(np.asarray(leaf), 3), strict=True)
            leaves |= {f"{name}/{part}": value for part, value in parts}
        else:
            leaves[name] = np.asarray(leaf)
    return leaves


def kernels(tree: Any) -> dict[str, np.ndarray]:
    """The leaves of rank two and more, which LARS moves by a share of their norm."""
    return {name: leaf for name, leaf in flat(tree).items() if leaf.ndim > 1}


def assert_same_shapes(ours: Any, theirs: Any) -> None:
    """Both trees have the same names and shapes."""
    shapes = [{name: leaf.shape for name, leaf in flat(tree).items()} for tree in (ours, theirs)]
    assert shapes[0] == shapes[1]


def assert_close(
    ours: Any,
    theirs: Any,
    *,
    tolerance: float,
    undetermined: tuple[str, ...] = (),
    reach: float = 0.0,
) -> None:
    """Every leaf agrees within ``tolerance``.

    Args:
      ours: tree of arrays.
      theirs: tree of the same names and shapes.
      tolerance: largest absolute difference.
      undetermined: ends of names of parameters whose gradient is zero in exact arithmetic. Adam
        scales the rounding errors that they get instead up to whole steps, so that official runs
        in single and in double precision differ there by the learning rate, too.
      reach: largest absolute difference of those: as far as the steps can have carried them apart.
    """
    assert_same_shapes(ours, theirs)
    ours, theirs = flat(ours), flat(theirs)
    wrong = {}
    for name, leaf in theirs.items():
        difference = np.abs(ours[name] - leaf).max()
        # Not "difference > ...", which NaN would pass.
        if not difference <= (reach if name.endswith(undetermined) else tolerance):
            wrong[name] = float(difference)
    assert not wrong, wrong


def assert_recorded_close(
    ours: Any,
    recorded: dict[str, np.ndarray],
    weights: dict[str, np.ndarray],
    tree: Callable[[dict[str, np.ndarray]], Any],
    *,
    tolerance: float,
) -> None:
    """Those leaves agree within ``tolerance`` of which something was recorded.

    Args:
      ours: tree of arrays.
      recorded: some arrays under their official names.
      weights: all of them, whose shapes alone matter.
      tree: from official names to ours.
      tolerance: largest absolute difference.
    """
    nothing = {name: np.zeros_like(value) for name, value in weights.items()}
    expected = flat(tree(nothing | recorded))
    known = flat(tree(nothing | {name: np.ones_like(x) for name, x in recorded.items()}))
    ours = flat(ours)
    compared = [name for name in known if known[name].any()]
    assert len(compared) == len(recorded)
    for name in compared:
        np.testing.assert_allclose(ours[name], expected[name], atol=tolerance, err_msg=name)
