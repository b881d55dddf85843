import json
import sys
import time

import pytest

from benchmarks import device_day
from repre_jax.errors import UserError


def run(code: str, seconds: float) -> bool:
    return device_day.run_until([sys.executable, "-c", code], time.monotonic() + seconds)


def test_a_command_that_takes_too_long_is_told_to_stop(tmp_path):
    saved = tmp_path / "saved"
    waits = (
        "import pathlib, signal, sys, time\n"
        "def save(*_):\n"
        f"    pathlib.Path({str(saved)!r}).touch()\n"
        "    sys.exit()\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "time.sleep(60)"
    )
    assert not run(waits, 3)
    assert saved.exists()
    assert run("", 60)
    assert not run("raise SystemExit(1)", -1), "no time is left to start it"


def test_a_command_that_fails_ends_the_call():
    with pytest.raises(UserError, match="ended with 3"):
        run("raise SystemExit(3)", 60)


def test_speed_is_set_against_the_bound_of_the_same_device_and_batch(monkeypatch, tmp_path):
    monkeypatch.setattr(device_day, "RESULTS", tmp_path)
    (tmp_path / "programs.json").write_text(
        '{"moco_v3_vits:baseline h100:1 128": {"fits": true, "images_per_second": 2000.0},'
        ' "moco_v3_vits h100:1 64": {"fits": true, "images_per_second": 1.0}}'
    )
    row = {"images_per_second": 1000.0, "share_of_peak": 0.25}
    measured = {
        "device": {"kind": "NVIDIA H100 80GB HBM3", "count": 1},
        "batch_size": 128,
        "variants": [{"name": "baseline"} | row, {"name": "repre_literal"} | row],
    }
    name = "step_time_moco_v3_vits_nvidia_h100_80gb_hbm3"
    told, missing = device_day.shares_of_bound(name, measured)
    assert "no row 'moco_v3_vits h100:1 128'" in missing
    assert "1,000 images/s, 50% of the bound" in told
    assert "25.0% of the peak" in told
    measured["device"]["kind"] = "cpu"
    assert device_day.shares_of_bound("step_time_moco_v3_vits_cpu", measured) == []


def test_speed_is_that_of_this_commit_on_one_device(monkeypatch, tmp_path):
    monkeypatch.setattr(device_day, "RESULTS", tmp_path)
    device_day.OPTIONS(["device_day", "--call=speed"])
    made = {"commit": "c0ffee", "hardware": {"device": "cpu"}}
    for name, commit in (("a_cpu", "c0ffee"), ("a_cpu_x8", "c0ffee"), ("b_cpu", "0ld"),
                         ("c_nvidia_h200", "c0ffee"), ("c_smoke_cpu", "c0ffee")):  # fmt: skip
        (tmp_path / f"step_time_{name}.json").write_text(json.dumps({"commit": commit}))
    assert set(device_day.measured_now("a", made)) == {"step_time_a_cpu"}
    assert not device_day.measured_now("b", made)
    assert not device_day.measured_now("c", made), "of another device, or shrunk"
