"""Two processes with shares of a state do as one with the whole: steps, checkpoints, k-NN."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from shared_course import go
from steps import assert_agree
from test_machines import free_port
from whole_runs import ROOT

from repre_jax.runs.checkpoints import Checkpoints
from repre_jax.sharding import abstract, all_replicated, make_mesh


@pytest.mark.slow
def test_two_processes_share_a_state(tmp_path):
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=4")
    together = tmp_path / "together"
    together.mkdir()
    where = f"localhost:{free_port()}"
    running = [
        subprocess.Popen(
            [sys.executable, "tests/shared_course.py", where, "2", str(number), str(together)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "XLA_FLAGS": flags},
        )
        for number in range(2)
    ]
    state, alone = go(tmp_path / "alone", shard_state=False)
    assert [process.wait(timeout=300) for process in running] == [0, 0]
    one, other = (json.loads((together / f"found-{k}.json").read_text()) for k in range(2))
    assert one == other
    assert one["losses"] == pytest.approx(alone["losses"], rel=1e-6)
    assert one["knn"] == alone["knn"]
    np.testing.assert_allclose(one["kernel"], alone["kernel"], atol=1e-6)

    checkpoints = Checkpoints(together, keep=1, best_metric=None)
    shapes = abstract(lambda: state, all_replicated(make_mesh(2)))
    restored, said = checkpoints.restore_newest(shapes)
    checkpoints.close()
    assert said == [], "its SHA-256, taken by both, is that of what is read here"
    assert_agree(*(jax.tree.map(np.asarray, x) for x in (restored, state)), tolerance=2e-5)
