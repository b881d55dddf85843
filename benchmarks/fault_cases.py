"""What happens to the runs of ``faults``, and what each fault's promise is."""

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from benchmarks.fault_bench import FIRST, Bench, Broken, left_by, wait
from repre_jax.evaluation.checkpoint import checkpoint_steps
from repre_jax.runs.destinations import read_rows

_SLOWLY = ("--config.train.steps=150", "--config.data.source=folder")
# Root is asked for permission, too, without this capability.
_FORBIDDEN = ["setpriv", "--bounding-set", "-dac_override", "--inh-caps", "-dac_override"]
_FORBIDDEN = _FORBIDDEN if os.geteuid() == 0 else []
EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}


def killed(bench: Bench, kind: str, kills: int) -> Iterator[None]:
    """SIGKILL at any moment, again and again, from the start of the process to its end."""
    done = 0
    while done < kills:
        in_this = 0
        with bench.workdir() as workdir:
            # A run that is killed too often never ends: three times, then it is let go on.
            while done < kills and in_this < 3:
                moment = bench.random.uniform(0, bench.seconds(kind))
                process = bench.begin(kind, workdir)
                time.sleep(moment)
                if process.poll() is not None:
                    bench.end(process, 0)
                    break
                process.kill()
                process.communicate()
                done, in_this = done + 1, in_this + 1
            bench.finish(kind, workdir)
        yield from [None] * in_this


def told_to_stop(bench: Bench, kind: str, number: signal.Signals) -> None:
    """SIGTERM, SIGINT or SIGHUP at any moment: 128 + signal once it has saved, at once before."""
    moment = bench.random.uniform(1.0, bench.seconds(kind))
    with bench.workdir() as workdir:
        process = bench.begin(kind, workdir)
        time.sleep(moment)
        process.send_signal(number)
        bench.end(process, EXIT_CODES[number], -number, 0)
        bench.finish(kind, workdir)


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
        try:
            refused = bench.begin(FIRST, workdir, prefix=_FORBIDDEN)
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
        newest = workdir / "checkpoints" / str(checkpoint_steps(workdir)[-1])
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
    with bench.workdir() as workdir:
        process = bench.begin(FIRST, workdir, "--config.data.workers=2")
        workers = wait(process, lambda: _workers(process.pid))
        os.kill(workers[0], signal.SIGKILL)
        bench.end(process, 0, 2)
        bench.finish(FIRST, workdir)


def clock_jumps(bench: Bench) -> None:
    """The wall clock jumps by days, forwards and back, all the time."""
    jumping = (
        "import random, time; now = time.time; "
        "time.time = lambda: now() + 86400 * random.Random(int(now())).randint(-3, 3)"
    )
    with bench.workdir() as workdir:
        bench.end(bench.begin(FIRST, workdir, preface=jumping), 0)
        bench.finish(FIRST, workdir)


def pixels_not_finite(bench: Bench) -> None:
    """One image's pixels are NaN once augmented: its steps are skipped, and it is named."""
    spoiled = (
        "import jax.numpy as jnp; from repre_jax.training import step; good = step.augment_views; "
        "nan = lambda views, sick: views | {'global': jnp.where(sick, jnp.nan, views['global'])}; "
        "step.augment_views = lambda batch, *rest: nan(good(batch, *rest), "
        "(batch['index'] == 804)[:, None, None, None, None])"
    )
    with bench.workdir() as workdir:
        bench.end(bench.begin("LoMaR", workdir, preface=spoiled), 0)
        notes = [json.loads(path.read_text()) for path in (workdir / "nonfinite").iterdir()]
        if not notes or any(len(note["features_not_finite_of"]) != 1 for note in notes):
            raise Broken(f"the image is not named: {notes}")
        skipped = [row["nonfinite_steps"] for row in read_rows(workdir / "metrics.jsonl")]
        if skipped[-1] != len(notes):
            raise Broken(f"{len(notes)} steps noted, {skipped[-1]} skipped")


def files_vanish(bench: Bench) -> None:
    """A third of the images is removed while they are read: replaced, counted, listed."""
    rng = np.random.default_rng(0)
    with bench.workdir() as images, bench.workdir() as workdir:
        for number in range(96):
            path = images / ("even", "odd")[number % 2] / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            cv2.imwrite(str(path), rng.integers(0, 256, (32, 32, 3), np.uint8))
        process = bench.begin(FIRST, workdir, f"--config.data.path={images}", *_SLOWLY)
        wait(process, lambda: checkpoint_steps(workdir))
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


def temporary_files_refused(bench: Bench) -> None:
    """Neither the folder for temporary files nor the home can be written to."""
    with bench.workdir() as closed, bench.workdir() as workdir:
        closed.chmod(0o555)
        environment = {"TMPDIR": str(closed), "HOME": str(closed), "XDG_CACHE_HOME": ""}
        refused = bench.begin(FIRST, workdir, prefix=_FORBIDDEN, environment=environment)
        bench.end(refused, 0)
        bench.finish(FIRST, workdir)


def process_lost(bench: Bench) -> None:
    """One of two processes is killed: the other ends within two minutes, then both go on."""
    with bench.workdir() as undisturbed, bench.workdir() as workdir:
        for process in _two_processes(bench, undisturbed):
            bench.end(process, 0)
        first, second = _two_processes(bench, workdir)
        wait(first, lambda: len(checkpoint_steps(workdir)) > 1)
        second.kill()
        second.communicate()
        try:
            first.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            first.kill()
            first.communicate()
            raise Broken("the other process waits") from None
        for process in _two_processes(bench, workdir):
            bench.end(process, 0)
        if left_by(workdir) != left_by(undisturbed):
            raise Broken("the end differs")


def _two_processes(bench: Bench, workdir: Path) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    join = (
        "import jax; jax.config.update('jax_cpu_collectives_implementation', 'gloo'); "
        "jax.distributed.initialize('localhost:{port}', 2, {number})"
    )
    return [
        bench.begin(
            FIRST,
            workdir,
            "--config.train.devices=2",
            preface=join.format(port=port, number=number),
        )
        for number in range(2)
    ]


def _workers(pid: int) -> list[int]:
    """Grain's processes, by their command."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text().split():
            with contextlib.suppress(OSError):
                if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text():
                    found.append(int(child))
    return found


# fault -> its cases, each a function of the bench; all are done as often as asked for.
ONCE: dict[str, tuple[Callable[[Bench], None], ...]] = {
    "damaged": tuple(
        lambda bench, how=how: damaged(bench, how) for how in ("torn", "flipped", "missing")
    ),
    "disk full": (disk_full,),
    "read-only folder": (read_only_folder,),
    "two on one folder": (two_on_one_folder,),
    "worker killed": (worker_killed,),
    "no temporary files": (temporary_files_refused,),
    "files vanish": (files_vanish,),
    "pixels not finite": (pixels_not_finite,),
    "clock jumps": (clock_jumps,),
    "one of two processes lost": (process_lost,),
    "stopped and continued": (stopped_and_continued,),
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
    "pixels not finite": "its steps are skipped, the image is named, the run ends",
    "one of two processes lost": "the other ends within two minutes; both again, the same bits",
}
