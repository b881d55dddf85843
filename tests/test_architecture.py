"""The house rules that a machine can hold: which way imports point, no option that nobody reads."""

import ast
import dataclasses
import importlib
import sys
from pathlib import Path

import pytest

from configs import default
from repre_jax.data.recipes import ViewRecipe
from repre_jax.explain import flat_keys
from repre_jax.methods import METHODS

ROOT = Path(__file__).parents[1]
EVALUATIONS = sorted(p for p in (ROOT / "configs" / "eval").glob("*.py") if p.stem != "default")
FILES = sorted((ROOT / "repre_jax").rglob("*.py"))
STORIES = {"repre_jax.pretrain", "repre_jax.table", "repre_jax.explain"}
NOT_AT_RUN_TIME = {"tensorflow", "torch", "torchvision", "timm", "clu"}

# Part of the library -> parts of it, and packages from outside, that it may import.
# A dotted name allows that file alone. The standard library and numpy are everybody's.
ALLOWED = {
    "errors": set(),
    "disk_trouble": {"errors"},
    "ranges": {"errors"},
    "normalisation": {"jax"},
    "schedules": {"jax"},
    "sharding": {"jax", "errors"},
    "losses": {"jax", "normalisation"},
    "models": {"jax", "flax", "ml_collections", "normalisation", "errors"},
    "methods": {
        "jax",
        "flax",
        "ml_collections",
        "models",
        "losses",
        "schedules",
        "data.recipes",
        "errors",
        "normalisation",
        "ranges",
    },
    "data": {
        "jax",
        "cv2",
        "PIL",
        "grain",
        "absl",
        "rich",
        "sklearn",
        "tensorflow_datasets",
        "errors",
    },
    "evaluation": {
        "jax",
        "flax",
        "optax",
        "ml_collections",
        "sklearn",
        "models",
        "data",
        "normalisation",
        "sharding",
        "optimizers",
        "schedules",
        "code_commit",
        "disk_trouble",
        "errors",
        "ranges",
    },
    "visualize": {"jax", "matplotlib", "sklearn", "evaluation", "models", "data", "errors"},
    "convert": {"jax", "flax", "safetensors", "torch", "models", "errors"},
    "optimizers": {"jax", "optax", "methods.method", "schedules"},
    "config_resolution": {
        "jax",
        "ml_collections",
        "errors",
        "methods",
        "models",
        "optimizers",
        "ranges",
        "schedules",
    },
    "train_state": {"jax", "flax", "optax", "methods", "models"},
    "learner": {
        "jax",
        "flax",
        "optax",
        "ml_collections",
        "config_resolution",
        "data.augmentations",
        "errors",
        "methods",
        "models",
        "optimizers",
        "schedules",
        "train_state",
    },
    "train_step": {
        "jax",
        "optax",
        "data.augmentations",
        "evaluation.health",
        "learner",
        "models.taps",
        "optimizers",
        "train_state",
    },
    "interruption": {"jax"},
    "training_loop": {
        "jax",
        "checkpoints",
        "data.device_prefetch",
        "data.source",
        "errors",
        "interruption",
        "run_folder",
        "run_logs",
        "sharding",
    },
    "fingerprints": {"jax"},
    "checkpoints": {"jax", "orbax", "disk_trouble", "errors", "fingerprints", "run_folder"},
    "progress": {"rich"},
    "run_folder": {"disk_trouble", "errors"},
    "run_logs": {"tensorboardX", "disk_trouble", "progress", "run_folder"},
    "explain": {
        "jax",
        "ml_collections",
        "config_resolution",
        "data",
        "errors",
        "learner",
        "sharding",
    },
    "code_commit": set(),
    "pretrained": {
        "jax",
        "flax",
        "orbax",
        "etils",
        "ml_collections",
        "data.recipes",
        "errors",
        "fingerprints",
        "methods",
        "models",
        "schedules",
        "train_state",
    },
    # The stories: everything they tell of.
    "pretrain": None,
    "evaluate": None,
    "linear_evaluation": None,
    "finetune_evaluation": None,
    "health_evaluation": None,
    "table": {"jax", "ml_collections", "disk_trouble", "errors", "evaluate", "run_folder"},
    "measures": {
        "jax",
        "ml_collections",
        "data",
        "errors",
        "evaluation",
        "pretrained",
        "run_folder",
        "sharding",
    },
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, *, inside_functions: bool = True) -> set[str]:
    """Full names of the modules that a file imports, "repre_jax.models.vit" say."""
    tree = ast.parse(path.read_text())
    hidden = set()
    if not inside_functions:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                hidden |= set(ast.walk(node))
    names = set()
    for node in ast.walk(tree):
        if node in hidden:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                base = ROOT / Path(*inner.split("."))
                is_module = base.with_suffix(".py").exists() or base.is_dir()
                names.add(inner if is_module else node.module)
    return names


def part_of(name: str) -> str:
    """ "repre_jax.models.vit" -> "models"."""
    return name.split(".")[1] if name.count(".") else ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    part = part_of(module_name(path))
    if not part:
        assert not imports(path)
        return
    assert part in ALLOWED, f"{path} is a new part: say here what it may import"
    allowed = ALLOWED[part]
    wrong = set()
    for name in imports(path):
        top = name.split(".")[0]
        if top == "repre_jax":
            inner = name.removeprefix("repre_jax.")
            fine = part_of(name) == part or allowed is None
            fine = fine or any(inner == a or inner.startswith(a + ".") for a in allowed)
        else:
            fine = top in sys.stdlib_module_names or top == "numpy" or allowed is None
            fine = fine or top in allowed
        if not fine:
            wrong.add(name)
    assert not wrong


def test_only_main_imports_the_stories_and_the_explanation():
    for path in FILES:
        assert not imports(path) & STORIES, path
    assert imports(ROOT / "main.py") >= STORIES


def test_methods_and_repre_know_nothing_of_each_other():
    folder = ROOT / "repre_jax" / "methods"
    for path in folder.glob("*.py"):
        if path.stem in METHODS:
            siblings = {n for n in imports(path) if n.startswith("repre_jax.methods")}
            assert "repre_jax.methods.method" in siblings, path
            assert siblings <= {"repre_jax.methods.method", "repre_jax.methods.queue"}, path
            assert "repre" not in path.read_text().replace("repre_jax", "").lower(), path
    assert not {n for n in imports(folder / "repre.py") if n.startswith("repre_jax.methods")}


def test_neither_tensorflow_nor_torch_at_run_time():
    program = [*FILES, ROOT / "main.py", *(ROOT / "configs").glob("*.py")]
    for path in program:
        may_hide = "convert" in path.parts  # extra [torch]
        found = {name.split(".")[0] for name in imports(path, inside_functions=not may_hide)}
        assert not found & NOT_AT_RUN_TIME, path


# ---------------------------------------------------------------------------------------------


def reads(path: Path) -> set[tuple[str, str]]:
    """(last name before the dot, attribute) of every attribute or ``.get("...")`` in a file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            value, name = node.value, node.attr
            if name == "get":
                continue
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "get"
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            value, name = node.func.value, node.args[0].value
        else:
            continue
        owner = getattr(value, "attr", None) or getattr(value, "id", None)
        found.add((owner, name))
    return found


READS = {module_name(path): reads(path) for path in [*FILES, ROOT / "main.py"]}
# Where a section of the config goes by another name than its own.
ALIASES = {
    "method": {"config"},
    "repre": {"config"},
    "decoder": {"decoder"},
    "data": {"data_config"},
    "model": {"model"},
}
OWNERS = {"method": "repre_jax.methods", "repre": "repre_jax.methods.repre"}


def is_read(key: str) -> bool:
    *sections, name = key.split(".")
    if not sections:
        return any(("config", name) in found for found in READS.values())
    section = sections[-1]
    if any((section, name) in found for found in READS.values()):
        return True
    owner = OWNERS.get(sections[0], "repre_jax")
    return any(
        (alias, name) in found
        for alias in ALIASES.get(section, ())
        for module, found in READS.items()
        if module.startswith(owner)
    )


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_option_is_read(method):
    keys = [key for key in flat_keys(default.get_config(method)) if not key.startswith("views.")]
    assert len(keys) > 40
    assert [key for key in keys if not is_read(key)] == []


@pytest.mark.parametrize("path", EVALUATIONS, ids=lambda path: path.stem)
def test_every_option_of_an_evaluation_is_read(path):
    config = importlib.import_module(f"configs.eval.{path.stem}").get_config()
    # A table holds the other evaluations' keys under their names, which are tested themselves.
    sections = {other.stem for other in EVALUATIONS}
    keys = [key for key in flat_keys(config) if key.split(".")[0] not in sections]
    assert [key for key in keys if not is_read(key)] == []


def test_an_option_that_nobody_reads_is_noticed():
    assert is_read("train.batch_size")
    assert is_read("data.cache_size")
    assert not is_read("train.batch_sise")
    assert not is_read("data.shuffle")
    assert not is_read("repre.momentum")


def test_view_options_are_fields_of_the_recipe_and_all_are_read():
    fields = {field.name for field in dataclasses.fields(ViewRecipe)}
    views = set(flat_keys(default.get_config("dino").views))
    assert views <= fields
    read = {name for found in READS.values() for owner, name in found if owner == "recipe"}
    read |= {name for found in READS.values() for owner, name in found if owner == "views"}
    assert fields - read == set()
