"""Whether a run that is killed and resumed ends bit for bit where the uninterrupted one ends.

    python -m benchmarks.resume_exact --data=/data/imagenette160

Trains a short run once without interruption, then once for each moment of ``killed_run``: it is
killed there with SIGKILL, and the same command goes on. Compared are the SHA-256 of the final
parameters, that of the whole train state, and every logged number but times. Writes
``results/resume_exact.json``. What stands after ``--`` goes to main.py, over the settings below.
"""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks.options import start
from benchmarks.provenance import provenance, save_result

OPTIONS = flags.FlagValues()
_DATA = flags.DEFINE_string(
    "data", None, "folder of images with train/ and val/", required=True, flag_values=OPTIONS
)
_CONFIG = flags.DEFINE_string(
    "config_file", "configs/imagenette_dino.py", "what to train", flag_values=OPTIONS
)
_FOLDER = flags.DEFINE_string(
    "runs", None, "where the runs are kept; default: thrown away", flag_values=OPTIONS
)

# 18 steps an epoch of Imagenette, so one evaluation falls within the run and one to its end.
_SETTINGS = (
    "--config.model.image_size=32",
    "--config.model.patch_size=8",
    "--config.views.local_size=16",
    "--config.train.batch_size=512",
    "--config.train.steps=27",
    "--config.checkpoint.every_steps=4",
    "--config.evaluation.knn_every_epochs=1",
    "--config.logging.every_steps=1",
)
# moment -> which occurrence of it: steps 6, 22, the checkpoint of step 12, the evaluation at 18.
_OCCURRENCES = {
    "after the start": 1,
    "in a step": 6,
    "in a save": 3,
    "in an evaluation": 1,
    "between steps": 22,
}
_TIMES = ("images_per_second", "input_bound", "wall_seconds")


def run(command: list[str], *, killed: bool) -> float:
    """Runs a child to its end and returns the seconds it took.

    Raises:
      SystemExit: it did not end as it should, with its last words.
    """
    start = time.perf_counter()
    child = subprocess.run(command, capture_output=True, text=True)
    expected = -signal.SIGKILL if killed else 0
    if child.returncode != expected:
        words = (child.stdout + child.stderr)[-2000:]
        raise SystemExit(
            f"{' '.join(command)} ended with {child.returncode}, not {expected}:\n{words}"
        )
    return round(time.perf_counter() - start, 1)


def fingerprints(folder: Path) -> dict[str, str]:
    """SHA-256 of what a finished run left: parameters, train state, logged numbers."""
    summary = json.loads((folder / "summary.json").read_text())
    newest = max((int(p.name) for p in (folder / "checkpoints").glob("[0-9]*")), default=None)
    about = json.loads((folder / "checkpoints" / str(newest) / "about" / "metadata").read_text())
    rows = [
        {key: value for key, value in row.items() if key not in _TIMES}
        for row in logged_rows(folder)
    ]
    return {
        "params_sha256": summary["params_sha256"],
        "state_sha256": about["sha256"],
        "logged_sha256": hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest(),
    }


def logged_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl; none before the first."""
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def left_by_the_killed(folder: Path) -> dict[str, Any]:
    """What a killed run had reached."""
    rows = logged_rows(folder)
    checkpoints = folder / "checkpoints"
    return {
        "last_logged_step": rows[-1]["step"] if rows else 0,
        "checkpoints": sorted(int(p.name) for p in checkpoints.glob("*") if p.name.isdigit()),
        "unfinished_saves": [p.name for p in checkpoints.glob("*tmp*")],
    }


def kill_and_resume(moment: str, arguments: list[str], folder: Path) -> dict[str, Any]:
    """The row of one moment."""
    arguments = [*arguments, f"--workdir={folder}"]
    killer = ["-m", "benchmarks.killed_run", moment, str(_OCCURRENCES[moment])]
    killed_seconds = run([sys.executable, *killer, *arguments], killed=True)
    row = {"moment": moment, "occurrence": _OCCURRENCES[moment]} | left_by_the_killed(folder)
    resumed_seconds = run([sys.executable, "main.py", *arguments], killed=False)
    return row | fingerprints(folder) | {"wall_seconds": [killed_seconds, resumed_seconds]}


def main(argv: list[str]) -> None:
    arguments = [f"--config={_CONFIG.value}", f"--config.data.path={_DATA.value}"]
    arguments += [*_SETTINGS, *argv[1:]]
    result = provenance(in_child=True) | {"settings": arguments, "killed": []}
    folder = Path(_FOLDER.value or tempfile.mkdtemp(prefix="resume_exact_"))
    try:
        whole = folder / "uninterrupted"
        seconds = run([sys.executable, "main.py", *arguments, f"--workdir={whole}"], killed=False)
        wanted = fingerprints(whole)
        result["uninterrupted"] = wanted | {"wall_seconds": seconds}
        print(f"{'uninterrupted':<18}{wanted['params_sha256'][:16]}  {seconds:.0f} s", flush=True)
        for moment in _OCCURRENCES:
            row = kill_and_resume(moment, arguments, folder / moment.replace(" ", "_"))
            row["exact"] = {key: row[key] == wanted[key] for key in wanted}
            result["killed"].append(row)
            verdict = "the same" if all(row["exact"].values()) else f"DIFFERS: {row['exact']}"
            print(
                f"{moment:<18}{row['params_sha256'][:16]}  {sum(row['wall_seconds']):.0f} s  "
                f"killed behind step {row['last_logged_step']}: {verdict}",
                flush=True,
            )
    finally:
        if not _FOLDER.value:
            shutil.rmtree(folder, ignore_errors=True)
    result["all_exact"] = all(all(row["exact"].values()) for row in result["killed"])
    print(f"Written to {save_result('resume_exact', result)}")
    if not result["all_exact"]:
        raise SystemExit(1)


if __name__ == "__main__":
    start(main, OPTIONS)
