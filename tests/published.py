"""The configs that hold a paper's recipe, by name, for tables of the papers' numbers."""

import re
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict
from whole_runs import ROOT

from repre_jax.config_files import read_config
from repre_jax.methods import METHODS
from repre_jax.methods.method import Method
from repre_jax.models import BACKBONES
from repre_jax.training.resolution import resolve

ENCODERS = ("vits", "vitb", "swint")
STEPS_PER_EPOCH = 10


def config_of(name: str) -> ConfigDict:
    """The config of "moco_v2_vits:epochs=800,official" and the like."""
    return read_config(name)


def method_of(config: ConfigDict) -> Method:
    """The method of a run with ``STEPS_PER_EPOCH``."""
    images = STEPS_PER_EPOCH * config.train.batch_size
    clock = resolve(config, images=images, devices=8).clock
    encoder = BACKBONES[config.model.name](config.model, jnp.float32)
    return METHODS[config.method.name].build(config.method, config.views, clock, encoder)


def _names() -> tuple[str, ...]:
    """What the files' own commands name, but for variants that leave the recipe as it is."""
    files = [path for name in ENCODERS for path in (ROOT / "configs").glob(f"*_{name}.py")]
    texts = "".join(path.read_text() for path in files)
    commands = re.findall(r"--config=configs/(\w+)\.py(\S*)", texts)
    recipes = ("", ":official", ":released")
    return tuple(sorted({file + variant for file, variant in commands if variant in recipes}))


NAMES = _names()


def rows(numbers: Any, *recipes: str) -> dict[str, Any]:
    """The same numbers for recipes such as "byol" or "byol:official" on every encoder."""
    parts = [recipe.partition(":") for recipe in recipes]
    return {
        f"{method}_{encoder}{colon}{variant}": numbers
        for method, colon, variant in parts
        for encoder in ENCODERS
    }
