"""``model.remat`` has three levels, and reads what was written when it had two."""

import json

import pytest

from repre_jax.errors import UserError
from repre_jax.evaluation.checkpoint import run_config
from repre_jax.rematerialisation import level_of
from repre_jax.runs.folder import saved_config
from repre_jax.training import defaults


@pytest.mark.parametrize(
    ("value", "level"), [(False, "none"), (True, "block"), ("attention", "attention")]
)
def test_levels(tmp_path, value, level):
    assert level_of(value) == level
    config = defaults.get_config("dino")
    config.model.remat = value  # as an older config, or one of today, has it
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    assert saved_config(tmp_path)["model"]["remat"] == level
    assert run_config(tmp_path).model.remat == level


@pytest.mark.parametrize("value", ["all", "", None, 1])
def test_others_are_refused(value):
    with pytest.raises(UserError, match="must be one of none, attention, block"):
        level_of(value)
