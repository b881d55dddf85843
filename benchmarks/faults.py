"""What runs promise under faults, counted: killed, told to stop, out of disk, damaged, disturbed.

    python -m benchmarks.faults
    python -m benchmarks.faults --kills=20 --only=killed,damaged

Small runs of every kind (pre-training with RePre, with LoMaR's windows, MAE, LoMaR, fine-tuning, a
linear probe, k-NN) are disturbed, started again by the same command, and compared with the
undisturbed one: SHA-256 of all parameters and every logged number but times, or all that an
evaluation found. ``killed`` sends SIGKILL at random moments from the start of the process to its
end. Writes ``results/faults.json`` after every case; stopped, the same command goes on.
"""

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from absl import flags

from benchmarks.fault_bench import FIRST, KINDS, LONGEST_SECONDS, Bench, Broken, saved
from benchmarks.options import start
from benchmarks.provenance import RESULTS, provenance, write_result

OPTIONS = flags.FlagValues()
_KILLS = flags.DEFINE_integer(
    "kills", 100, "SIGKILLs, over all kinds of run", lower_bound=1, flag_values=OPTIONS
)
_ONLY = flags.DEFINE_list("only", [], "faults, by name; empty: all", flag_values=OPTIONS)
_SEED = flags.DEFINE_integer("seed", 0, "of the moments", flag_values=OPTIONS)
_OUT = flags.DEFINE_string(
    "out", str(RESULTS / "faults.json"), "where the table goes", flag_values=OPTIONS
)

_SLOWLY = ("--config.train.steps=150", "--config.data.source=folder")
EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}


def killed(bench: Bench, kind: str, seconds: float, kills: int) -> Iterator[None]:
    """SIGKILL at any moment, again and again, from the start of the process to its end."""
    done = 0
    while done < kills:
        workdir = Path(tempfile.mkdtemp(prefix="killed-", dir=bench.folder))
        in_this = 0
        try:
            # A run that is killed too often never ends: three times, then it is let go on.
            while done < kills and in_this < 3:
                process = bench.begin(kind, workdir)
                time.sleep(bench.random.uniform(0, seconds))
                if process.poll() is not None:
                    bench.end(process, 0)
                    break
                process.kill()
                process.communicate()
                done, in_this = done + 1, in_this + 1
            bench.finish(kind, workdir)
            for _ in range(in_this):
                yield
        finally:
            shutil.rmtree(workdir)
            shutil.rmtree(f"{workdir}-features", ignore_errors=True)


def told_to_stop(bench: Bench, kind: str, seconds: float, number: signal.Signals) -> None:
    """SIGTERM, SIGINT or SIGHUP at any moment: 128 + signal once it has saved, at once before."""
    workdir = Path(tempfile.mkdtemp(prefix="told-", dir=bench.folder))
    try:
        process = bench.begin(kind, workdir)
        time.sleep(bench.random.uniform(1.0, seconds))
        process.send_signal(number)
        bench.end(process, EXIT_CODES[number], -number, 0)
        bench.finish(kind, workdir)
    finally:
        shutil.rmtree(workdir)
        shutil.rmtree(f"{workdir}-features", ignore_errors=True)


def stopped_and_continued(bench: Bench) -> None:
    """SIGSTOP for some seconds, then SIGCONT."""
    with bench.halfway(FIRST) as (workdir, process):
        process.send_signal(signal.SIGSTOP)
        time.sleep(3)
        process.send_signal(signal.SIGCONT)
        bench.end(process, 0)
        bench.finish(FIRST, workdir)


def disk_full(bench: Bench) -> None:
    """No file may grow beyond 64 KiB, as on a full disk: one sentence, then it goes on."""
    with bench.halfway(FIRST) as (workdir, process):
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (64 * 1024, 64 * 1024))
        if "space" not in bench.refused(process):
            raise Broken("the disk is not named")
        bench.finish(FIRST, workdir)


def read_only_folder(bench: Bench) -> None:
    """The folder may not be written to: one sentence, then it goes on."""
    with bench.halfway(FIRST) as (workdir, process):
        process.kill()
        process.wait()
        paths = [workdir, *(path for path in workdir.rglob("*") if path.is_dir())]
        for path in paths:
            path.chmod(0o555)
        nobody = 65534 if os.geteuid() == 0 else None  # nothing is forbidden to root
        try:
            refused = bench.begin(FIRST, workdir, user=nobody)
            if "permission denied" not in bench.refused(refused):
                raise Broken("the permission is not named")
        finally:
            for path in paths:
                path.chmod(0o755)
        bench.finish(FIRST, workdir)


def damaged(bench: Bench, how: str) -> None:
    """A file of the newest checkpoint is torn, has one bit flipped, or is missing."""
    with bench.halfway(FIRST) as (workdir, process):
        process.kill()
        process.wait()
        newest = workdir / "checkpoints" / str(saved(workdir)[-1])
        files = [path for path in newest.rglob("*") if path.is_file()]
        path = max(files, key=lambda path: path.stat().st_size)
        content = bytearray(path.read_bytes())
        if how == "missing":
            path.unlink()
        elif how == "torn":
            path.write_bytes(content[: len(content) // 2])
        else:
            content[bench.random.randrange(len(content))] ^= 1 << bench.random.randrange(8)
            path.write_bytes(content)
        if f"Checkpoint {newest.name} is damaged" not in bench.finish(FIRST, workdir):
            raise Broken("the damage is not told")


def two_on_one_folder(bench: Bench) -> None:
    """A second process is refused, the first is not disturbed."""
    with bench.halfway(FIRST) as (workdir, process):
        process.send_signal(signal.SIGSTOP)  # or it would end before the other begins
        if "is training in" not in bench.refused(bench.begin(FIRST, workdir)):
            raise Broken("the other process is not named")
        process.send_signal(signal.SIGCONT)
        bench.end(process, 0)
        bench.finish(FIRST, workdir)


def worker_killed(bench: Bench) -> None:
    """A process that decodes images is killed: the run ends at once, then it goes on."""
    workdir = Path(tempfile.mkdtemp(prefix="worker-", dir=bench.folder))
    try:
        process = bench.begin(FIRST, workdir, "--config.data.workers=2")
        deadline = time.monotonic() + LONGEST_SECONDS
        while not (workers := _workers(process.pid)):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Broken(f"no worker was seen: {process.communicate()}")
            time.sleep(0.02)
        os.kill(workers[0], signal.SIGKILL)
        bench.end(process, 0, 2)
        bench.finish(FIRST, workdir)
    finally:
        shutil.rmtree(workdir)


def clock_jumps(bench: Bench) -> None:
    """The wall clock jumps by days, forwards and back, all the time."""
    workdir = Path(tempfile.mkdtemp(prefix="clock-", dir=bench.folder))
    jumping = (
        "import random, time; now = time.time; "
        "time.time = lambda: now() + 86400 * random.Random(int(now())).randint(-3, 3); "
        "from repre_jax.command_line import run; run()"
    )
    try:
        _, script, *flags_ = bench.command(FIRST, workdir)
        del script
        process = subprocess.Popen(
            [sys.executable, "-c", jumping, *flags_],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        bench.end(process, 0)
        bench.finish(FIRST, workdir)
    finally:
        shutil.rmtree(workdir)


def files_vanish(bench: Bench) -> None:
    """A third of the images is removed while they are read: replaced, counted, listed."""
    images, workdir = bench.folder / "images", bench.folder / "vanishing"
    rng = np.random.default_rng(0)
    try:
        for number in range(96):
            path = images / ("even", "odd")[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), rng.integers(0, 256, (32, 32, 3), np.uint8))
        process = bench.begin(FIRST, workdir, f"--config.data.path={images}", *_SLOWLY)
        while not saved(workdir):
            if process.poll() is not None:
                raise Broken(f"it ended before it saved: {process.communicate()}")
            time.sleep(0.02)
        gone = sorted(images.rglob("*.png"))[::3]
        for path in gone:
            path.unlink()
        bench.end(process, 0)
        listed = (workdir / "bad_files.txt").read_text().splitlines()
        summary = json.loads((workdir / "summary.json").read_text())
        if not {line.split("\t")[0] for line in listed} <= {str(path) for path in gone}:
            raise Broken(f"others are listed: {listed}")
        if not 0 < len(listed) == summary["bad_files"] or "No such file" not in listed[0]:
            raise Broken(f"{summary['bad_files']} counted, {len(listed)} listed")
    finally:
        shutil.rmtree(images, ignore_errors=True)
        shutil.rmtree(workdir, ignore_errors=True)


def temporary_files_refused(bench: Bench) -> None:
    """Neither the folder for temporary files nor the home can be written to."""
    workdir = Path(tempfile.mkdtemp(prefix="notmp-", dir=bench.folder))
    closed = bench.folder / "closed"
    closed.mkdir(exist_ok=True)
    closed.chmod(0o555)
    workdir.chmod(0o777)
    nobody = 65534 if os.geteuid() == 0 else None  # nothing is forbidden to root
    try:
        environment = os.environ | {"TMPDIR": str(closed), "HOME": str(closed)}
        environment.pop("XDG_CACHE_HOME", None)
        process = subprocess.Popen(
            bench.command(FIRST, workdir),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            user=nobody,
        )
        bench.end(process, 0)
        bench.finish(FIRST, workdir)
    finally:
        shutil.rmtree(workdir)


def _workers(pid: int) -> list[int]:
    """Grain's processes, by their command."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text().split():
            with contextlib.suppress(OSError):
                if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text():
                    found.append(int(child))
    return found


# fault -> cases of it, each a function of the bench.
ONCE: dict[str, tuple[Callable[[Bench], None], ...]] = {
    "stopped and continued": (stopped_and_continued,) * 3,
    "disk full": (disk_full,) * 3,
    "read-only folder": (read_only_folder,) * 3,
    "damaged": tuple(
        lambda bench, how=how: damaged(bench, how) for how in ("torn", "flipped", "missing") * 3
    ),
    "two on one folder": (two_on_one_folder,) * 3,
    "worker killed": (worker_killed,) * 3,
    "clock jumps": (clock_jumps,),
    "files vanish": (files_vanish,) * 2,
    "no temporary files": (temporary_files_refused,),
}
PROMISES = {
    "killed": "started again, it ends with the same bits",
    "told to stop": "it saves, exits with 128 + signal, and ends with the same bits",
    "stopped and continued": "it ends with the same bits",
    "disk full": "one sentence, exit code 2; started again, the same bits",
    "read-only folder": "one sentence, exit code 2; started again, the same bits",
    "damaged": "told, set aside; the checkpoint before it, the same bits",
    "two on one folder": "the second is refused, the first ends with the same bits",
    "worker killed": "no hang, no traceback; started again, the same bits",
    "clock jumps": "the same bits",
    "files vanish": "it goes on with others; all that it missed are counted and listed, with why",
    "no temporary files": "the same bits",
}


def cases(bench: Bench, seconds: dict[str, float]) -> Iterator[tuple[str, str, Callable]]:
    """(fault, case, function that does it): all that is to be counted."""
    kinds = list(KINDS)
    for number, kind in enumerate(kinds):
        share = _KILLS.value * (number + 1) // len(kinds) - _KILLS.value * number // len(kinds)
        if share:
            yield "killed", kind, lambda k=kind, n=share: list(killed(bench, k, seconds[k], n))
    for kind in kinds:
        for signal_ in EXIT_CODES:
            run = lambda k=kind, s=signal_: told_to_stop(bench, k, seconds[k], s)  # noqa: E731
            yield "told to stop", f"{kind}, {signal_.name}", run
    for fault, functions in ONCE.items():
        for number, function in enumerate(functions):
            yield fault, str(number), lambda f=function: f(bench)


def count(result: dict[str, Any], fault: str, case: str, run: Callable) -> None:
    """Does one case and adds it to the table."""
    row = result["faults"].setdefault(
        fault, {"promise": PROMISES[fault], "tried": 0, "kept": 0, "broken": {}, "cases": []}
    )
    if case in row["cases"]:
        return
    try:
        kept = run()
        times = len(kept) if kept is not None else 1
        row["kept"] += times
    except Broken as error:
        times = 1
        row["broken"][case] = str(error)
    row["tried"] += times
    row["cases"].append(case)
    write_result(Path(_OUT.value), result)
    told = "  BROKEN: " + row["broken"][case] if case in row["broken"] else ""
    print(f"{fault:<24}{row['kept']:>4} of {row['tried']:<4} {case}{told}", flush=True)


def main(argv: list[str]) -> None:
    del argv
    path = Path(_OUT.value)
    result = provenance(in_child=True) | {"kills": _KILLS.value, "seed": _SEED.value, "faults": {}}
    if path.exists():
        before = json.loads(path.read_text())
        if all(before[key] == result[key] for key in ("commit", "kills", "seed")):
            result["faults"] = before["faults"]
    with tempfile.TemporaryDirectory(prefix="faults_") as folder:
        Path(folder).chmod(0o755)
        bench = Bench(Path(folder), random.Random(_SEED.value))
        seconds = result["seconds"] = bench.prepare()
        for fault, case, run in cases(bench, seconds):
            if not _ONLY.value or fault in _ONLY.value:
                count(result, fault, case, run)
    if any(row["broken"] for row in result["faults"].values()):
        raise SystemExit(1)


if __name__ == "__main__":
    start(main, OPTIONS)
