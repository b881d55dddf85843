"""A day on one accelerator, in calls of a few minutes: speed beside its bound, peers, short runs.

    python -m benchmarks.device_day --call=speed
    python -m benchmarks.device_day --call=peers --data=/data/imagenette160 --dino=... --moco_v3=...
    python -m benchmarks.device_day --call=moco_v3 --data=... --minutes=9
    python -m benchmarks.device_day --call=dino --data=...
    python -m benchmarks.device_day --call=moco_v3 --data=... --smoke     # the rehearsal on a CPU

Every call ends by itself within ``--minutes``: what is under way then is told to stop, saves, and
goes on when the call is made again. "speed" is ``step_time`` of MoCo v3 and DINO on ViT-S/16, set
against the bound of ``results/programs.json``; its shares are in ``results/device_day/speed.json``.
"peers" is the benchmark of that name, the input on
all cores included. "moco_v3" and "dino" train ViT-S/16 at 160 px (``:gpu`` of the imagenette
configs) without RePre and with it, half of the time each. What came of a run is written to
``results/device_day/<call>-<row>.json``, curves and all, finished or not.
"""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks.imagenette import curves, read_rows
from benchmarks.options import start
from benchmarks.programs import Row
from benchmarks.provenance import RESULTS, in_file_names, provenance, write_result
from repre_jax.errors import UserError

CALLS = ("speed", "peers", "moco_v3", "dino")
ROWS = {"baseline": ["baseline"], "repre": []}  # of a training call, and their variants
BOUNDS = {"NVIDIA H100 80GB HBM3": "h100:1", "NVIDIA H200": "h200:1"}  # device kind -> target
_TO_SAVE = 60  # seconds that are left to a run that was told to stop

OPTIONS = flags.FlagValues()
_CALL = flags.DEFINE_enum("call", None, CALLS, "what to do", required=True, flag_values=OPTIONS)
_MINUTES = flags.DEFINE_float(
    "minutes", 9.0, "within which a call ends", lower_bound=2.0, flag_values=OPTIONS
)
_DATA = flags.DEFINE_string("data", "", "folder of Imagenette's images", flag_values=OPTIONS)
_DINO = flags.DEFINE_string("dino", "", "checkout, for peers", flag_values=OPTIONS)
_MOCO_V3 = flags.DEFINE_string("moco_v3", "", "checkout, for peers", flag_values=OPTIONS)
_OUT = flags.DEFINE_string(
    "out", str(RESULTS / "device_day"), "folder for shares and curves", flag_values=OPTIONS
)
_RUNS = flags.DEFINE_string(
    "runs", "runs/device_day", "where the run folders are", flag_values=OPTIONS
)
_SMOKE = flags.DEFINE_bool("smoke", False, "everything shrunk, for a CPU", flag_values=OPTIONS)


def run_until(command: Sequence[str], deadline: float) -> bool:
    """Runs a command, tells it to stop at the deadline, and ends it if it does not.

    Args:
      command: arguments.
      deadline: of ``time.monotonic``.

    Returns:
      Whether it came to its end before.

    Raises:
      UserError: it failed by itself.
    """
    print("$", shlex.join(command), flush=True)
    if deadline - time.monotonic() <= 0:
        return False
    with subprocess.Popen(command) as child:
        try:
            code = child.wait(timeout=deadline - time.monotonic())
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(timeout=_TO_SAVE)
            except subprocess.TimeoutExpired:
                child.kill()
            return False
    if code:
        raise UserError(f"{shlex.join(command)} ended with {code}.")
    return True


def speed(deadline: float) -> None:
    """Step time of both methods, of this commit, and the share of the bound that it reaches."""
    made, names = provenance(in_child=True), ("moco_v3_vits", "dino_vits")
    for name in names:
        if measured_now(name, made) and not made["commit"].endswith("+changes"):
            continue
        config = f"configs/{name}.py" + (":smoke" if _SMOKE.value else "")
        command = [sys.executable, "-m", "benchmarks.step_time", f"--config={config}"]
        command += ["--widths=literal"]
        command += ["--batch_size=16", "--rounds=1"] if _SMOKE.value else ["--steps=10"]
        run_until(command, deadline)
    lines = [
        line
        for name in names
        for stem, measured in measured_now(name, made).items()
        for line in shares_of_bound(stem, measured)
    ]
    print(*lines, sep="\n")
    path = Path(_OUT.value) / "speed.json"
    write_result(path, made | {"shares": lines})
    print(f"Written to {path}")


def measured_now(config: str, made: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """{name: result} of ``step_time``, if there is one of this config, device and commit.

    Args:
      config: name of its file.
      made: ``provenance`` of this call.
    """
    smoke = "_smoke" if _SMOKE.value else ""
    device = in_file_names(made["hardware"]["device"])
    path = RESULTS / f"step_time_{config}{smoke}_{device}.json"  # of one device; of more: _x8
    result = json.loads(path.read_text()) if path.exists() else {}
    return {path.stem: result} if result.get("commit") == made["commit"] else {}


def shares_of_bound(name: str, measured: dict[str, Any]) -> list[str]:
    """A result of ``step_time`` beside the rows of ``programs`` that have its device and batch."""
    path = RESULTS / "programs.json"
    bounds = json.loads(path.read_text()) if path.exists() else {}
    target = BOUNDS.get(measured["device"]["kind"])
    if target is None:
        return []
    config = re.sub(r"^step_time_|_nvidia.*$", "", name)
    lines = []
    for row in measured["variants"]:
        variant = ":baseline" if row["name"] == "baseline" else ""
        program = Row(f"{config}{variant}", target, measured["batch_size"]).name
        bound = bounds.get(program)
        if bound is None:
            lines.append(f"{config} {row['name']}: results/programs.json has no row {program!r}")
        elif bound["fits"]:
            share = row["images_per_second"] / bound["images_per_second"]
            lines.append(
                f"{config} {row['name']}: {row['images_per_second']:,.0f} images/s, {share:.0%} of "
                f"the bound of the data sheet, {bound['images_per_second']:,.0f}; "
                f"{row['share_of_peak'] or 0:.1%} of the peak of its operations"
            )
    return lines


def peers(deadline: float) -> None:
    """Ours beside the official code, with the input on all cores."""
    command = [sys.executable, "-m", "benchmarks.peers", f"--data={_given_data()}"]
    command += [f"--dino={_DINO.value}", f"--moco_v3={_MOCO_V3.value}"]
    if _SMOKE.value:
        command += ["--batch_size=2", "--rounds=1", "--input_images=16"]
    run_until(command, deadline)


def train(method: str, deadline: float) -> None:
    """Both rows of a method, in what is left of the time half each; a finished one leaves more."""
    for k, (row, variants) in enumerate(ROWS.items()):
        named = ",".join([*variants, "smoke" if _SMOKE.value else "gpu"])
        folder = Path(_RUNS.value) / f"{method}-{row}"
        now = time.monotonic()
        command = [
            sys.executable,
            "main.py",
            f"--config=configs/imagenette_{method}.py:{named}",
            f"--config.data.path={_given_data()}",
            f"--workdir={folder}",
            "--config.stopped_is_success=True",
        ]
        finished = run_until(command, now + (deadline - now) / (len(ROWS) - k))
        if (folder / "metrics.jsonl").exists():
            rows = read_rows(folder)
            result = {"row": f"{method}-{row}", "finished": finished, "run": shlex.join(command)}
            result |= {"last": rows[-1] if rows else None, "curves": curves(rows)}
            path = Path(_OUT.value) / f"{method}-{row}.json"
            write_result(path, provenance(in_child=True) | result)
            print(f"Written to {path}")


def _given_data() -> str:
    if not _DATA.value:
        raise UserError(f"--call={_CALL.value} needs --data, a folder of Imagenette's images.")
    return _DATA.value


def main(argv: list[str]) -> None:
    del argv
    deadline = time.monotonic() + 60 * _MINUTES.value - _TO_SAVE
    if _CALL.value in ("speed", "peers"):
        {"speed": speed, "peers": peers}[_CALL.value](deadline)
    else:
        train(_CALL.value, deadline)


if __name__ == "__main__":
    start(main, OPTIONS)
