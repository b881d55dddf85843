"""The records of the kinds of evaluation: what they name exists."""

import importlib

import jax.numpy as jnp
import pytest

from repre_jax.evaluation import TASKS
from repre_jax.evaluation.frozen import FEATURES
from repre_jax.methods import METHODS
from repre_jax.schedules import Clock
from repre_jax.training import defaults
from repre_jax.training.explain import flat_keys

# The methods whose own linear probe is of a transformer; the others' is MoCo v3's.
OWN_LINEAR = {"dino": "dino", "moby": "moby"}


@pytest.mark.parametrize("name", TASKS)
def test_what_is_free_to_change_can_be_set(name):
    keys = flat_keys(importlib.import_module(f"configs.eval.{name}").get_config())
    assert set(TASKS[name].free_to_change) <= set(keys)
    assert ("protocol" in keys) == bool(TASKS[name].protocols)


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_evaluated_by_what_there_is(name):
    config = defaults.get_config(name)
    method = METHODS[name].build(config.method, config.views, Clock(1, 1), jnp.float32)
    defaults = method.evaluation
    assert defaults.linear == OWN_LINEAR.get(name, "moco_v3")
    assert defaults.linear in TASKS["linear"].protocols
    assert defaults.finetune in (None, *TASKS["finetune"].protocols)
    assert defaults.feature in FEATURES
