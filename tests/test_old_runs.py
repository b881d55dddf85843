"""A run folder made by an earlier version opens, and goes on where it stopped.

tests/golden/run: a tiny DINO with RePre on digits, stopped at step 2 of 4, made at commit 29f3044;
beside it what that version made of it (opened.npz: features and a map; went_on.json: later rows).

    python main.py --config=dino_vits:smoke --config.model.width=16 --config.model.depth=4 \
        --config.model.heads=2 --config.model.image_size=16 --config.views.local_size=8 \
        --config.repre.decoder.width=8 --config.method.prototypes=32 --config.method.hidden=16 \
        --config.checkpoint.keep=3
"""

import json
import shutil

import numpy as np
import pytest
from whole_runs import ROOT, checkpoint_steps, command, rows, summary

import repre_jax

GOLDEN = ROOT / "tests" / "golden" / "run"
FLAGS = __doc__.split("main.py ")[1].replace("\\\n", "").split()


@pytest.mark.parametrize("weights", ["online", "target"])
def test_its_encoder_is_the_same(weights):
    expected = np.load(GOLDEN / "opened.npz")
    encoder = repre_jax.load(GOLDEN, weights=weights)
    images = expected["images"]
    wanted = expected[f"features_{weights}"]
    np.testing.assert_allclose(encoder.features(images), wanted, atol=1e-5)
    wanted = expected[f"map_{weights}"]
    np.testing.assert_allclose(encoder.maps(images, [1])[0], wanted, atol=1e-5)


@pytest.mark.slow
def test_it_goes_on(tmp_path, capsys):
    run = shutil.copytree(GOLDEN, tmp_path / "run")
    assert command(*FLAGS, f"--workdir={run}") == 0
    assert "Resumed at step 2." in capsys.readouterr().out
    assert checkpoint_steps(run) == [2, 4]
    expected = json.loads((GOLDEN / "went_on.json").read_text())
    for row, wanted in zip(rows(run)[2:], expected["rows"], strict=True):
        assert {key: row[key] for key in wanted} == pytest.approx(wanted, rel=1e-4)
    assert summary(run)["knn/top1"] == pytest.approx(expected["summary"]["knn/top1"], abs=0.01)
