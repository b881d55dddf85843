"""What running an author's PyTorch code beside ours takes: its checkout, today's libraries, shims.

PyTorch is imported when something is made of it, not before.
"""

import contextlib
import importlib.util
import os
import subprocess
import sys
import types
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from repre_jax.data.host.cores import usable_cores
from repre_jax.errors import UserError

_KEPT = []  # declarations, which last as long as their library


def check(
    checkouts: Mapping[str, str | None],
    files: Mapping[str, str],
    repositories: Mapping[str, str],
    packages: tuple[str, ...],
    otherwise: str,
) -> None:
    """Raises UserError when the official code of a method cannot be run, without running it.

    Args:
      checkouts: method -> folder that was given.
      files: method -> a file that its checkout must have.
      repositories: method -> "owner/name" on GitHub.
      packages: what the code imports.
      otherwise: what else the user may do, as the end of a sentence.
    """
    for method, folder in checkouts.items():
        if not folder or not (Path(folder) / files[method]).is_file():
            raise UserError(
                f"--{method}={folder or ''} must be a checkout of "
                f"github.com/{repositories[method]}; or {otherwise}."
            )
    missing = [name for name in packages if not importlib.util.find_spec(name)]
    if missing:
        raise UserError(
            f"The official code needs {' and '.join(missing)}: pip install {' '.join(missing)}, or "
            f"{otherwise}."
        )


def provenance(checkouts: Mapping[str, str], packages: tuple[str, ...]) -> dict[str, Any] | None:
    """{"commits", "versions"} of the official code and of what it runs on; None without any."""
    if not checkouts:
        return None
    return {
        "commits": {method: _commit(folder) for method, folder in checkouts.items()},
        "versions": {name: metadata.version(name) for name in packages},
    }


def torch_on_all_cores() -> types.ModuleType:
    """torch, which uses all cores that this process may use, as JAX does."""
    import torch

    torch.set_num_threads(usable_cores())
    return torch


def declare_torchvision_operators() -> None:
    """The two that its Python part asks for, where the compiled part is of another torch."""
    import torch

    with contextlib.suppress(ImportError, RuntimeError):
        import torchvision  # noqa: F401

        return
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT.append(operators)


@contextlib.contextmanager
def modules_of(checkout: str) -> Iterator[None]:
    """Lets modules be imported from a checkout and forgets them: two may have the same name."""
    folder = str(Path(checkout).resolve())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        for name, module in list(sys.modules.items()):
            if (getattr(module, "__file__", None) or "").startswith(folder + os.sep):
                del sys.modules[name]


def _commit(checkout: str) -> str:
    command = ["git", "-C", checkout, "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
