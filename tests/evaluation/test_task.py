"""The records of the kinds of evaluation: what they name exists."""

import jax.numpy as jnp
import pytest
from evaluation_configs import config_name

from repre_jax.config_files import read_config
from repre_jax.evaluation import TASKS
from repre_jax.evaluation.frozen import FEATURES
from repre_jax.methods import METHODS
from repre_jax.models import BACKBONES
from repre_jax.schedules import Clock
from repre_jax.training import defaults
from repre_jax.training.explain import flat_keys


@pytest.mark.parametrize("name", TASKS)
def test_what_is_free_to_change_can_be_set(name):
    keys = flat_keys(read_config(config_name(name)))
    assert set(TASKS[name].free_to_change) <= set(keys)
    assert ("protocol" in keys) == bool(TASKS[name].protocols)


@pytest.mark.parametrize("name", TASKS)
def test_images_of_its_own_have_keys_of_their_own(name):
    data = read_config(config_name(name)).data
    # What is None is the run's.
    assert TASKS[name].own_data == (data.path is not None)


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_evaluated_by_what_there_is(name):
    config = defaults.get_config(name)
    encoder = BACKBONES[config.model.name](config.model, jnp.float32)
    method = METHODS[name].build(config.method, config.views, Clock(1, 1), encoder)
    named = method.evaluation
    assert named.linear in TASKS["linear"].protocols
    assert named.finetune in (None, *TASKS["finetune"].protocols)
    assert named.feature in FEATURES
