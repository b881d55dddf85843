"""Files of tensors of other libraries, read without running anything that lies in them."""

import argparse
import collections
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from repre_jax.errors import UserError

TORCH = (".pth", ".pt", ".tar", ".bin")
SUFFIXES = (".safetensors", ".npz", *TORCH)
# In a folder of timm or transformers; the second one may be in several parts, with a list of them.
_FOLDER_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def is_foreign(path: Path) -> bool:
    """Whether it is a file, or folder, of another library, and not a run."""
    if path.is_file():
        return path.suffix in SUFFIXES
    return any((path / name).is_file() for name in _FOLDER_FILES)


def run_name(path: Path) -> str:
    """What a run of it is called: "linear-vit-s-300ep" of ``linear-vit-s-300ep.pth.tar``."""
    path = _whole(path)
    name = path.name
    while path.is_file() and Path(name).suffix in SUFFIXES:
        name = Path(name).stem
    return name


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, Any]]:
    """The tensors of a file or folder under dotted names, and what its two JSON files say.

    Returns:
      (name -> array, ``config.json``, ``preprocessor_config.json``); of a file, or where a folder
      lacks them, the latter are {}. Arrays are as stored, bfloat16 too.

    Raises:
      UserError: no such file, one of another kind, a damaged one, or one that wants to run code.
    """
    path = _whole(path)
    if path.is_dir():
        found = next((path / name for name in _FOLDER_FILES if (path / name).is_file()), None)
        if found is None:
            raise UserError(f"{path} has none of {', '.join(_FOLDER_FILES)}.")
        tensors = {}
        for file in _parts(found):
            tensors |= _read_file(file)
        return tensors, _json(path / "config.json"), _json(path / "preprocessor_config.json")
    if not path.is_file():
        raise UserError(f"{path} does not exist: give a file of weights, or a folder with one.")
    return _read_file(path), {}, {}


def _whole(path: Path) -> Path:
    """The folder of a file that is but a part of one: its config.json tells what it is of."""
    part = path.name in _FOLDER_FILES and (path.parent / "config.json").is_file()
    return path.parent if part else path


def _parts(file: Path) -> list[Path]:
    """The files that an index names, or the one file itself."""
    if file.suffix != ".json":
        return [file]
    index = _json(file).get("weight_map", {})
    parts = [file.parent / Path(str(name)).name for name in sorted(set(index.values()))]
    lacking = [part for part in parts if not part.is_file()]
    if lacking or not parts:
        raise UserError(f"{lacking[0] if lacking else file} is missing, or names no file.")
    return parts


def _read_file(path: Path) -> dict[str, np.ndarray]:
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".npz":
        return _read_npz(path)
    if path.suffix in TORCH:
        return _read_torch(path)
    raise UserError(f"{path} ends in none of {', '.join(SUFFIXES)}: it cannot be read as weights.")


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    import safetensors
    import safetensors.numpy

    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
        raise _damaged(path, error) from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """Object arrays, which are pickles, are refused by NumPy."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (ValueError, OSError, EOFError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from error


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    """Through torch's reader of tensors alone.

    What the training scripts of DINO and MAE, and of MoBY, keep their arguments in is plain, too: a
    namespace, and a dictionary of yacs, which is read as an ordinary one.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path} is a file of PyTorch, which is not installed: pip install 'repre_jax[torch]', "
            "or give a .safetensors of the same weights."
        ) from error
    plain = [argparse.Namespace, (collections.OrderedDict, "yacs.config.CfgNode")]
    try:
        with torch.serialization.safe_globals(plain):
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch each have their own types
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wanted:
            raise UserError(
                f"{path} holds more than tensors ({wanted[1]}) and would have to run code to be "
                "read, so nothing of it was: where you trust it, save its tensors alone."
            ) from error
        raise _damaged(path, error) from error
    flat: dict[str, np.ndarray] = {}
    _flatten(stored, "", flat, torch)
    return flat


def _flatten(value: Any, name: str, flat: dict[str, np.ndarray], torch: Any) -> None:
    """Collects the floating-point tensors of nested dictionaries; of optimizers, too."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _flatten(inner, f"{name}.{key}" if name else str(key), flat, torch)
    elif isinstance(value, torch.Tensor):
        value = value.detach()
        flat[name] = (value.float() if value.is_floating_point() else value).numpy()


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}).") from error


def _damaged(path: Path, error: Exception) -> UserError:
    told = str(error).strip()
    if not told or told.startswith("Weights only load failed"):  # torch's advice to run code
        told = type(error).__name__
    first = told.splitlines()[0][:120]
    return UserError(f"{path} is damaged, or not what its name says ({first}): fetch it again.")
