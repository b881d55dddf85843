"""No option that nobody reads. Which way imports point is import-linter's (pyproject.toml)."""

import ast
import dataclasses
import functools
from pathlib import Path

import pytest

from repre_jax.config_files import read_config
from repre_jax.data.recipes import ViewRecipe
from repre_jax.methods import METHODS
from repre_jax.training import defaults
from repre_jax.training.explain import flat_keys

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
EVALUATIONS = sorted(CONFIGS.glob("*/*.py"))
# Without those that set the keys: what sets one reads it, too, by the look of it.
FILES = sorted(p for p in (ROOT / "repre_jax").rglob("*.py") if p.stem != "defaults")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


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


@functools.cache
def all_reads() -> dict[str, set[tuple[str, str]]]:
    """{module: ``reads`` of its file}."""
    return {module_name(path): reads(path) for path in FILES}


# Where a section of the config goes by another name than its own.
ALIASES = {
    "method": {"config"},
    "repre": {"config"},
    "decoder": {"decoder"},
    "windows": {"config"},
    "data": {"data_config"},
    "model": {"model"},
    "recipe": {"form"},  # detectors' numbers, handed on to the model
}
OWNERS = {
    "method": "repre_jax.methods",
    "repre": tuple(f"repre_jax.methods.{name}" for name in ("repre", "branch", "windows")),
}


def is_read(key: str) -> bool:
    *sections, name = key.split(".")
    if not sections:
        return any(("config", name) in found for found in all_reads().values())
    section = sections[-1]
    if any((section, name) in found for found in all_reads().values()):
        return True
    owner = OWNERS.get(sections[0], "repre_jax")
    return any(
        (alias, name) in found
        for alias in ALIASES.get(section, ())
        for module, found in all_reads().items()
        if module.startswith(owner)
    )


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_option_is_read(method):
    keys = [key for key in flat_keys(defaults.get_config(method)) if not key.startswith("views.")]
    assert len(keys) > 40
    assert [key for key in keys if not is_read(key)] == []


@pytest.mark.parametrize("path", EVALUATIONS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_option_of_an_evaluation_is_read(path):
    config = read_config(path.relative_to(CONFIGS).with_suffix("").as_posix())
    # A table holds the other evaluations' keys under their names, which are tested themselves.
    sections = {"detection", *(other.stem for other in EVALUATIONS)}
    keys = [key for key in flat_keys(config) if key.split(".")[0] not in sections]
    assert [key for key in keys if not is_read(key)] == []


@pytest.mark.parametrize("name", ["import", "export"])
def test_every_option_of_weights_in_and_out_is_read(name):
    assert [key for key in flat_keys(read_config(name)) if not is_read(key)] == []


def test_an_option_that_nobody_reads_is_noticed():
    assert is_read("train.batch_size")
    assert is_read("data.cache_size")
    assert not is_read("train.batch_sise")
    assert not is_read("data.shuffle")
    assert not is_read("repre.momentum")


def test_view_options_are_fields_of_the_recipe_and_all_are_read():
    fields = {field.name for field in dataclasses.fields(ViewRecipe)}
    views = set(flat_keys(defaults.get_config("dino").views))
    assert views <= fields
    read = {name for found in all_reads().values() for owner, name in found if owner == "recipe"}
    read |= {name for found in all_reads().values() for owner, name in found if owner == "views"}
    assert fields - read == set()
