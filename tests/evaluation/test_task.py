"""The records of the kinds of evaluation: what they name exists."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluation_configs import config_name

from repre_jax.config_files import read_config
from repre_jax.evaluation import TASKS
from repre_jax.evaluation.frozen import FEATURES
from repre_jax.evaluation.task import Evaluation
from repre_jax.methods import METHODS
from repre_jax.models import BACKBONES
from repre_jax.schedules import Clock
from repre_jax.sharding import make_mesh
from repre_jax.training import defaults
from repre_jax.training.explain import flat_keys


def test_parameters_are_read_once_and_lie_on_every_device():
    """Those on the host would be copied there with every batch."""
    reads = []
    pretrained = SimpleNamespace(load_params=lambda: reads.append(1) or {"x": np.ones(3)})
    evaluation = Evaluation(None, pretrained, None, None, make_mesh(), None)
    for _ in range(2):
        assert evaluation.params["x"].sharding.is_fully_replicated
        assert evaluation.params["x"].devices() == set(jax.devices())
    assert reads == [1]


@pytest.mark.parametrize("name", TASKS)
def test_what_is_free_to_change_can_be_set(name):
    keys = flat_keys(read_config(config_name(name)))
    assert set(TASKS[name].free_to_change) <= set(keys)
    assert ("protocol" in keys) == bool(TASKS[name].protocols)
    assert ("pictures" in keys) == ("pictures" in TASKS[name].free_to_change)


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
