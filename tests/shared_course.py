"""Steps on all devices of one process, or of several with a sharded state; for test_shared_course.

python tests/shared_course.py <coordinator> <processes> <this one's number> <folder>
"""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from tiny import BATCH, random_pixels, random_state, tiny_config, tiny_learner

from repre_jax import machines
from repre_jax.evaluation.knn import knn_accuracy
from repre_jax.runs.checkpoints import Checkpoints
from repre_jax.runs.fingerprints import params_sha256
from repre_jax.sharding import by_row, make_mesh, whole
from repre_jax.training import placement as placement_module
from repre_jax.training.compiled import jitted_step
from repre_jax.training.placement import Placement

DEVICES = 8
STEPS = 2


def go(folder: Path, *, shard_state: bool) -> tuple[Any, dict[str, Any]]:
    """(the state, which is saved in ``folder``; what was measured on the way)."""
    config = tiny_config("moco_v3")
    config.model.depth = 1
    config.repre.enabled = False
    config.optimizer.name = "sgd"  # AdamW makes whole steps of rounding, where a gradient is zero
    never = {"jitter_probability": 0.0, "grey_probability": 0.0}
    never |= {"blur_probability": (0.0, 0.0), "solarise_probability": (0.0, 0.0)}
    config.views.update(never)  # what never happens is not compiled
    learner = tiny_learner(config, devices=DEVICES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placement_module, "SMALLEST_SHARED", 64)
        placement = Placement(make_mesh(), shard_state)
        state = random_state(learner)
        state = jax.device_put(state, placement.of(state))
        step, losses = jitted_step(learner, placement), []
        for t in range(STEPS):
            batch = random_pixels(learner, seed=t)
            batch |= {"index": np.arange(BATCH, dtype=np.int32), "epoch": np.zeros(BATCH, np.int32)}
            state, metrics = step(state, jax.device_put(batch, by_row(placement.mesh)))
            losses.append(float(metrics["loss"]))
    with contextlib.closing(Checkpoints(folder, keep=1, best_metric=None)) as checkpoints:
        checkpoints.save(state)
        checkpoints.wait()
    found = {"losses": losses, "sha256": params_sha256(state), "knn": nearest(placement.mesh)}
    kernel = whole(state.params, placement.mesh)["encoder"]["block_0"]["mlp"]["up"]["kernel"]
    return state, found | {"kernel": np.asarray(kernel).tolist()}


def nearest(mesh: jax.sharding.Mesh) -> dict[str, float]:
    """k-NN of noise in which the classes lie apart a little."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 50)
    features = rng.normal(size=(50, 8)) + np.eye(8)[labels]
    halves = (features[:27], labels[:27], features[27:], labels[27:])
    return knn_accuracy(*halves, num_classes=4, k=5, mesh=mesh)


if __name__ == "__main__":
    coordinator, processes, number, path = sys.argv[1:]
    machines.join(coordinator, int(processes), int(number))
    found = go(Path(path), shard_state=True)[1]
    (Path(path) / f"found-{number}.json").write_text(json.dumps(found))
