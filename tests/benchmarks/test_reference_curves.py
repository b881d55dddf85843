"""The references of the package are the results' curves, thinned; other settings make none."""

import json

import pytest

from benchmarks.provenance import RESULTS
from benchmarks.reference_curves import FOLDER, kept_rows, reference

PATHS = sorted(RESULTS.glob("imagenette*_cpu*/*.json"))


def test_the_package_has_those_of_the_results():
    carried = {path.stem: json.loads(path.read_text()) for path in FOLDER.glob("*.json")}
    made = dict(filter(None, (reference(json.loads(path.read_text())) for path in PATHS)))
    assert carried == made


def test_a_row_is_left_out_but_no_knn():
    curves = {"step": list(range(1000)), "knn/top1": [None] * 1000}
    curves["knn/top1"][501] = 0.5
    rows = kept_rows(curves)
    assert len(rows) <= 122
    assert {0, 501, 999} <= set(rows)


@pytest.mark.parametrize("override", ["--config.optimizer.name=sgd", "--config.seed=1"])
def test_other_settings_make_no_reference(override):
    result = json.loads((RESULTS / "imagenette_cpu" / "dino-baseline.json").read_text())
    assert reference(result)[0] == "imagenette_dino-baseline"
    assert reference(result | {"command": f"{result['command']} {override}"}) is None
    assert reference({key: value for key, value in result.items() if key != "curves"}) is None
