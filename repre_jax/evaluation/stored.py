"""Parts of a checkpoint, read without the rest and without touching it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from repre_jax.errors import UserError
from repre_jax.runs.fingerprints import array_sha256s


def read_about(folder: Path) -> dict[str, Any]:
    """{"sha256" of the whole state, "arrays": that of each array} of a checkpoint."""
    path = folder / "about" / "metadata"
    try:
        stored = json.loads(path.read_text())
        return {key: stored[key] for key in ("sha256", "arrays")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"Checkpoint {folder} is damaged, or of an older version: {path} cannot be read "
            f"({error!r})."
        ) from error


def read_parts(
    folder: Path, expected: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The parts of a checkpoint that ``expected`` names, as numpy arrays; nothing else is read.

    Args:
      folder: of the checkpoint.
      expected: such as {"params": {"encoder": shapes of its parameters}}.

    Raises:
      UserError: the checkpoint is damaged, or holds other shapes.
    """

    def named(tree):
        item = {
            part: {name: tree[part][name] for name in shapes} for part, shapes in expected.items()
        }
        for part, shapes in expected.items():
            for name in shapes:
                _check_same_shapes(folder, item[part][name], shapes[name])
        return item

    return read_chosen(folder, named)


def read_chosen(folder: Path, choose: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """What ``choose`` takes of a checkpoint's tree, as NumPy arrays whose bytes were checked."""
    import orbax.checkpoint as ocp  # seconds to import, which cached features do without
    from etils import epath

    handler = ocp.PyTreeCheckpointHandler()
    try:
        state = epath.Path(folder / "state")
        tree = handler.metadata(state).tree
        item = choose(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree))
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
        restored = ocp.Checkpointer(handler).restore(
            state,
            args=ocp.args.PyTreeRestore(item=item, restore_args=as_numpy, partial_restore=True),
        )
    except (UserError, MemoryError, PermissionError):
        raise
    except Exception as error:  # Orbax, TensorStore and JSON each have their own types
        raise _damaged(folder, type(error).__name__) from error
    saved = read_about(folder)["arrays"]
    if any(saved.get(name) != digest for name, digest in array_sha256s(restored).items()):
        raise _damaged(folder, "its bytes are not those that were saved")
    return restored


def _damaged(folder: Path, reason: str) -> UserError:
    return UserError(
        f"{folder} is damaged ({reason}): evaluate another step, or bring it back from a copy."
    )


def _check_same_shapes(folder: Path, stored: Any, expected: Any) -> None:
    def shapes(tree):
        pairs = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(p, simple=True, separator="/"): x.shape for p, x in pairs}

    stored, expected = shapes(stored), shapes(expected)
    for name in sorted(stored.keys() | expected.keys()):
        if stored.get(name) != expected.get(name):
            raise UserError(
                f"{folder} holds another network than the run's config.json describes: {name} is "
                f"{stored.get(name, 'absent')} there, {expected.get(name, 'absent')} by the config."
            )
