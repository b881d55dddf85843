"""What may differ when a run goes on: what draws for each micro-batch, what is told."""

import jax
import numpy as np
import pytest
from tiny import random_state, random_views, tiny_config, tiny_learner, tiny_swin_config

from repre_jax.config_files import read_config
from repre_jax.errors import UserError
from repre_jax.methods.method import Keys
from repre_jax.runs.folder import Change
from repre_jax.training import resuming
from repre_jax.training.resuming import (
    changes_told,
    check_changes,
    drawn_by_micro_batch,
    ways_to_less_memory,
)
from repre_jax.training.step import encode

ACCUMULATE = [Change("train.accumulate", "1", "4")]


def configs():
    """{what draws for each micro-batch: such a config}."""
    dropping, paired, beside = tiny_config("moco_v3"), tiny_config("lomar"), tiny_config("dino")
    dropping.model.drop_path = 0.1
    paired.method.pairing = "released"
    beside.repre.branch = "windows"
    beside.repre.windows.pairing = "released"
    return {
        "model.drop_path": dropping,
        "method.pairing=released": paired,
        "repre.windows.pairing=released": beside,
    }


@pytest.mark.parametrize("name", configs())
def test_accumulate_stays_where_micro_batches_draw(name):
    config = configs()[name]
    assert drawn_by_micro_batch(config) == [name]
    with pytest.raises(UserError, match=f"1 -> 4 is refused, for {name} draws anew"):
        check_changes(config, ACCUMULATE)
    check_changes(
        config, [Change("model.remat", "none", "block"), Change("train.devices", "1", "8")]
    )
    assert "train.accumulate" not in ways_to_less_memory(config)


@pytest.mark.parametrize(("method", "crops"), [("moco_v3", False), ("dino", True)])
def test_fewer_crops_help_only_methods_that_have_some(method, crops):
    config = read_config(f"{method}_vits")
    assert ("fewer views.local_crops" in ways_to_less_memory(config)) == crops


def test_accumulate_changes_elsewhere(monkeypatch):
    config = tiny_config("moco_v2")
    check_changes(config, ACCUMULATE)
    assert "model.remat" not in ways_to_less_memory(config), "of no use on a CPU"
    monkeypatch.setattr(resuming, "undoes_remat", lambda: False)
    assert ways_to_less_memory(config) == (
        "a larger train.accumulate or model.remat=attention or block or more train.devices or "
        "train.shard_state=True, which may change when a run is resumed; or, in a new --workdir, a "
        "smaller train.batch_size or a smaller model."
    )


def test_what_is_told_of_changes():
    order, weights = "to rounding, no longer bit for bit", "changes no weight"
    told = changes_told(ACCUMULATE)
    assert "train.accumulate: 1 -> 4" in told and order in told and weights not in told
    told = changes_told([Change("evaluation.neighbours", "20", "5")])
    assert order not in told and weights in told


@pytest.mark.parametrize(
    ("tiny", "levels"),
    [
        (tiny_config, ["block"]),
        pytest.param(tiny_config, ["attention"], marks=pytest.mark.slow),
        pytest.param(tiny_swin_config, ["attention", "block"], marks=pytest.mark.slow),
    ],
)
def test_recomputed_blocks_drop_the_same_paths(tiny, levels):
    """The draws of drop path are those of a run without remat."""

    def features(remat, *seeds):
        config = tiny("moco_v2")  # one view passes the online network
        config.model.update({"drop_path": 0.5, "remat": remat})
        config.repre.enabled = False
        learner = tiny_learner(config)
        params, views = random_state(learner).params, random_views(learner)
        encoded = jax.jit(lambda key: encode(learner, params, views, Keys(None, key)).inputs)
        return [np.asarray(encoded(jax.random.key(seed))) for seed in seeds]

    one, other = features("none", 0, 1)
    for level in levels:
        (again,) = features(level, 0)
        np.testing.assert_allclose(again, one, rtol=1e-4, atol=1e-5)
    assert np.abs(other - one).max() > 0.1
