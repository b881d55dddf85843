"""Wrong names and values for every key of every config, drawn with a seed."""

import functools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from repre_jax.config_files import carried, read_config
from repre_jax.evaluation import TASKS
from repre_jax.methods import METHODS
from repre_jax.training.explain import flat_keys

# Keys that may be any name or path of this machine: theirs are URLs.
_FREE = ("workdir", "data.path", "data.name", "cache_path", "tokens_path", "checkpoint", "runs",
         "source", "step_file", "data_path", "wandb")  # fmt: skip
_OF_TYPE = {
    int: ("many", "3.5", "(1,)", "1e3"),
    float: ("many", "1/2", "(1.0,)", "1,5"),
    bool: ("maybe", "2", "None"),
    tuple: ("many", "(1,", "('a', 'b')", "(None, None)", "((1, 2), 3)"),
    object: ("many", "3.5", "(8,)", "(8, 8, 8)", "('a', 8)", "True"),  # sizes of images
}
_OUT_OF_RANGE = {
    int: ("-1", "-17", "-100000"),
    float: ("nan", "inf", "-inf", "1e300", "-0.5"),
    tuple: (str((-0.1,) * 9),),  # too many and too small
    object: ("-1", "0", "(0, 8)"),
}


class Case(NamedTuple):
    """A mistake: its kind, and the arguments of the command that makes it."""

    kind: str
    arguments: tuple[str, ...]


def generated(root: Path, seed: int) -> list[Case]:
    """Mistakes about every key: of each method, of what all share, of each evaluation.

    Args:
      root: a folder of ``bad_folders.prepare``.
      seed: of the draws.
    """
    rng = random.Random(seed)
    cases = []
    read_once = functools.cache(read_config)
    for config, given, key in _keys(root, rng):
        read = read_once(config)
        command = (f"--config={config}", *given)
        cases.append(Case("name of a key", (*command, f"--config.{_misspelt(read, key, rng)}=1")))
        for kind, value in _wrong(read, key, rng):
            cases.append(Case(kind, (*command, f"--config.{key}={value}")))
    return cases


def _keys(root: Path, rng: random.Random) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """(config, other arguments, key), once for each key; keys that methods share with any."""
    configs = {m: f"{m}_vits:smoke" if f"{m}_vits" in carried() else f"{m}_vitb:smoke"
               for m in METHODS}  # fmt: skip
    new = f"--workdir={root / 'new' / 'run'}"
    shared = flat_keys(read_config(configs["dino"]))
    for key in shared:
        if not key.startswith("method."):
            yield configs[rng.choice(sorted(METHODS))], (new,), key
    for method, config in configs.items():
        for key in METHODS[method].default_config():
            yield config, (new,), f"method.{key}"
    run = f"--config.checkpoint={root / 'run'}"
    images = ("--config.data.source=folder", f"--config.data.path={root / 'images'}")
    for task in (name for name in TASKS if not TASKS[name].own_data):
        for key in flat_keys(read_config(f"eval/{task}:smoke")):
            batch = ("--config.train_batch_size=8",) if task == "linear" else ()
            yield f"eval/{task}:smoke", (run, *images, *batch), key
    for key in flat_keys(read_config("eval/table:smoke")):
        cell = key.split(".")[0]
        cells = (f"--config.cells=('{cell}',)",) if cell in TASKS else ()
        data = () if ".data." in key else images  # that of the table would replace the cell's
        yield "eval/table:smoke", (f"--config.runs={root / 'run'}", *data, *cells, new), key
    for task in (name for name in TASKS if TASKS[name].own_data):
        config, *given = of_its_own_set(root, task)
        for key in flat_keys(read_config(config)):
            yield config, tuple(given), key
    for config, given in (
        ("look:smoke", (run, *images, new)),
        ("patch_clusters:smoke", (new,)),
        ("import", (f"--config.source={root / 'weights'}", new)),
        ("export", (run, new)),
        ("report", (f"--config.runs={root / 'run'}", new)),
        ("replay", (f"--config.step_file={root / 'run' / 'nonfinite' / '1.json'}",)),
    ):
        for key in flat_keys(read_config(config)):
            yield config, given, key


def of_its_own_set(root: Path, task: str) -> tuple[str, ...]:
    """A config, and what makes it a command: a task that reads pixels with classes, or objects."""
    run = f"--config.checkpoint={root / 'run'}"
    if task == "detection":
        return "detect/folder:smoke", run, f"--config.data.path={root / 'objects'}"
    pairs = ("layout=folder", f"path={root / 'pairs'}", "classes=3")
    batch = ("--config.train_batch_size=8",) if task in ("linear_segmentation", "setr") else ()
    return f"eval/{task}:smoke", run, *batch, *(f"--config.data.{given}" for given in pairs)


def _wrong(config: ConfigDict, key: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    """(kind of mistake, value) for a key."""
    kind = _type_of(config, key)
    if kind is str:
        if key.endswith(_FREE):
            yield "path", f"gs://bucket/{rng.randrange(1000)}"
        else:
            yield "name", rng.choice(("nothing", "DINO ", "2,", "²"))
        return
    yield "type", rng.choice(_OF_TYPE[kind])
    if kind in _OUT_OF_RANGE:
        yield "range", rng.choice(_OUT_OF_RANGE[kind])


def _type_of(config: ConfigDict, key: str) -> Any:
    *sections, name = key.split(".")
    for section in sections:
        config = config[section]
    return config.get_type(name)


def _misspelt(config: ConfigDict, key: str, rng: random.Random) -> str:
    """The key with a letter left out of its last part."""
    *sections, name = key.split(".")
    known = flat_keys(config)
    while True:
        place = rng.randrange(len(name))
        wrong = ".".join([*sections, name[:place] + name[place + 1 :]])
        if wrong not in known:
            return wrong
