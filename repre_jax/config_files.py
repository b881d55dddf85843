"""Config files, Python with ``get_config(variants)``: by path, or carried ones by name.

The package carries those of ``configs/``: in a checkout they lie beside it, in a wheel inside it.
"""

import contextlib
import difflib
import importlib.util
import inspect
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict

from repre_jax.errors import UserError

_PACKAGE = Path(__file__).parent


def carried() -> dict[str, Path]:
    """{"dino_vits": its path, "eval/knn": ...} of the configs that the package carries."""
    inside = _PACKAGE / "configs"
    folder = inside if inside.is_dir() else _PACKAGE.parent / "configs"
    paths = sorted(folder.glob("*.py")) + sorted(folder.glob("*/*.py"))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def locate(name: str) -> Path:
    """The config file of that path or, where there is none, the carried one of that name.

    Raises:
      UserError: there is neither.
    """
    path = Path(name) if Path(name).is_file() else carried().get(name)
    if path is None:
        near = _nearest(name)
        hint = f"did you mean {near}?" if near else "--help lists those that the package carries."
        raise UserError(f"There is no config file {name}; {hint}")
    return path


def beside(file: str, name: str) -> ModuleType:
    """The config module ``name`` to inherit from: of the same folder, else carried by the package.

    Args:
      file: ``__file__`` of the config that inherits.
      name: "dino_vits".

    Raises:
      UserError: there is neither.
    """
    sibling = Path(file).with_name(f"{name}.py")
    # A user's dino_vits.py may inherit from the carried one.
    use_sibling = sibling.is_file() and sibling != Path(file)
    return _load(sibling if use_sibling else locate(name))


def read_config(named: str) -> ConfigDict:
    """The config of "dino_vits", "eval/linear:sweep" or "my/own.py:baseline,smoke".

    Raises:
      UserError: no such file, one that cannot be run, or variants that it does not have.
    """
    file, _, variants = named.partition(":")
    get_config = getattr(_load(locate(file)), "get_config", None)
    if get_config is None:
        raise UserError(f"{file} is no config: it has no function get_config.")
    takes_variants = inspect.signature(get_config).parameters
    if variants and not takes_variants:
        raise UserError(f"No variant {variants!r}; {file} has none.")
    with _mistakes_told(file):
        return get_config(variants) if takes_variants else get_config()


def apply_variants(
    config: ConfigDict, variants: Iterable[str], known: Mapping[str, Callable[..., None]]
) -> ConfigDict:
    """Applies variants, such as "smoke" and "layers=4", one after the other.

    Args:
      config: changed in place.
      variants: names; what follows an equals sign is handed to the variant as text.
      known: name -> what changes the config.

    Raises:
      UserError: no such variant, or one with a value it does not take.
    """
    for text in filter(None, variants):
        name, *value = text.split("=", 1)
        if name not in known:
            raise UserError(f"No variant {name!r}; this config has {', '.join(sorted(known))}.")
        takes = len(inspect.signature(known[name]).parameters) - 1
        if takes != len(value):
            how = f"needs a value, {name}=..." if takes else "takes no value"
            raise UserError(f"Variant {name} {how}.")
        known[name](config, *value)
    return config


def _load(path: Path) -> ModuleType:
    """Runs a file by its path, so that no folder need be on Python's search path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None:
        raise UserError(f"{path} is no config: its name does not end in .py.")
    module = importlib.util.module_from_spec(spec)
    with _mistakes_told(path):
        spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _mistakes_told(file: str | Path) -> Iterator[None]:
    """Turns what a config raises, which its author can mend, into a UserError with its line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        where, line = _place(error, file)
        words = error.msg if isinstance(error, SyntaxError) else error  # without its place
        told = " ".join(f"{type(error).__name__}: {words}".split())
        raise UserError(
            f"{file} cannot be run as a config ({told}; {where}, line {line})."
        ) from error


def _place(error: Exception, file: str | Path) -> tuple[str, int | None]:
    """File and line of a mistake: in the innermost config, not in what that calls."""
    if isinstance(error, SyntaxError) and error.filename:
        return error.filename, error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    configs = {Path(locate(str(file))).resolve(), *(path.resolve() for path in carried().values())}
    frames = [x for x in frames if Path(x.filename).resolve() in configs] or frames
    return frames[-1].filename, frames[-1].lineno


def _nearest(name: str) -> str | None:
    """Of the files where ``name`` points, else of the carried ones."""
    neighbours = map(str, Path(name).parent.glob("*.py"))
    bare = name.removeprefix("configs/").removesuffix(".py")
    near = difflib.get_close_matches(name, neighbours, n=1)
    near = near or difflib.get_close_matches(bare, carried(), n=1, cutoff=0.5)
    return near[0] if near else None
