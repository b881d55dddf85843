"""What a method makes of ``config.views``, and says of a run that is too short for it."""

import json

import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict
from tiny import STEPS_PER_EPOCH, TOTAL_STEPS, tiny_config, tiny_learner

from repre_jax.methods import dino
from repre_jax.methods.method import with_overrides
from repre_jax.schedules import epoch_linear
from repre_jax.training import defaults


def test_a_recorded_config_gives_the_recipe_that_the_config_gave():
    """config.json has lists for tuples; the recipe must be the same, and hashable."""
    views = defaults.get_config("dino").views
    views.update({"blur_probability": (0.25, 0.75), "crop_scale": (0.3, 0.9)})
    recorded = ConfigDict(json.loads(json.dumps(views.to_dict())))
    assert isinstance(recorded.blur_probability, list)
    recipe = with_overrides(dino.VIEWS, recorded)
    assert recipe == with_overrides(dino.VIEWS, views)
    assert recipe.blur_probability == (0.25, 0.75)
    hash(recipe)


def remarks(method, seen=10**6, **settings):
    config = tiny_config(method)
    config.method.update(settings)
    return tiny_learner(config).method.remarks(seen)


def test_a_teacher_temperature_that_is_not_reached_is_told():
    """The run has two epochs."""
    given = {"teacher_temperature_start": 0.02, "teacher_temperature": 0.06}
    (told,) = remarks("dino", teacher_temperature_warmup_epochs=5, **given)
    schedule = epoch_linear(0.02, 0.06, epochs=5, steps_per_epoch=STEPS_PER_EPOCH)
    assert float(schedule(jnp.int32(TOTAL_STEPS - 1))) == pytest.approx(0.03)
    assert "ends at 0.03, not at method.teacher_temperature=0.06" in told
    assert remarks("dino", teacher_temperature_warmup_epochs=2, **given) == []


def test_a_last_layer_that_stays_frozen_is_told():
    temperature = {"teacher_temperature_start": 0.04, "teacher_temperature": 0.04}
    no_warm_up = {"teacher_temperature_warmup_epochs": 0, **temperature}
    (told,) = remarks("dino", freeze_last_layer_epochs=2.0, **no_warm_up)
    assert "frozen for 8 steps, and the run has 8: it is never trained" in told
    assert remarks("dino", freeze_last_layer_epochs=1.8, **no_warm_up) == []


def test_a_teacher_temperature_to_start_with_that_nothing_reads_is_told():
    options = {"freeze_last_layer_epochs": 0.0, "teacher_temperature_warmup_epochs": 0}
    options |= {"teacher_temperature_start": 0.02, "teacher_temperature": 0.04}
    (told,) = remarks("dino", **options)
    assert "method.teacher_temperature=0.04 from the first step" in told


@pytest.mark.parametrize("method", ["moco_v2", "moby"])
def test_a_queue_that_is_never_filled_is_told(method):
    (told,) = remarks(method, seen=99, queue=100)
    assert "The queue holds 100 keys and the run sees 99 images" in told
    assert remarks(method, seen=100, queue=100) == []
