"""The table of compiled programs, and whether small ones are still what was recorded of them."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from whole_runs import ROOT

from benchmarks import programs
from benchmarks.provenance import RESULTS

RECORDED = json.loads((RESULTS / "programs.json").read_text())
COMPILERS = {"v5e": "libtpu", "h100": "jax_cuda13_plugin"}


def test_rows():
    names = [row.name for row in programs.rows()]
    assert len(names) == len(set(names))
    assert names[4:6] == ["moco_v3_vits h100:1 128", "moco_v3_vits:baseline h100:1 128"]
    assert "moco_v3_vits:baseline v5e:4x8 recipe" in names
    assert "moco_v3_vits v5e:4x4 recipe remat=attention" in names
    assert "mae_vitb h200:8 recipe" in names
    assert "mae_vitb:baseline h200:8 recipe" not in names, "it has no RePre"
    assert not any("linear" in name for name in names)


def test_the_page_has_the_table_of_the_results():
    page = (ROOT / "benchmarks" / "README.md").read_text()
    assert programs.table(RECORDED) in page


@pytest.mark.slow
@pytest.mark.parametrize("row", programs.SMALL, ids=lambda row: row.name)
def test_memory_and_traffic_are_what_they_were(row):
    compiler = COMPILERS[row.target.partition(":")[0]]
    if importlib.util.find_spec(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    # Flags of these tests, which hurry the compiler of CPUs, are none of the program's.
    clean = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    ask = (
        "import json; from benchmarks import programs as p; "
        f"print(json.dumps(p.compile_row(p.Row({row.config!r}, {row.target!r}))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", ask], cwd=ROOT, env=clean, stdout=subprocess.PIPE, check=True
    )
    now, before = json.loads(done.stdout.splitlines()[-1]), RECORDED[row.name]
    for key in ("wanted", "bytes"):
        assert now[key] == pytest.approx(before[key], rel=0.1), key
    assert now["operations"] == before["operations"]
