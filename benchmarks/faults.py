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
import dataclasses
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

from absl import flags

from benchmarks.options import start
from benchmarks.provenance import RESULTS, provenance, write_result
from benchmarks.resume_exact import fingerprints

OPTIONS = flags.FlagValues()
_KILLS = flags.DEFINE_integer(
    "kills", 100, "SIGKILLs, over all kinds of run", lower_bound=1, flag_values=OPTIONS
)
_ONLY = flags.DEFINE_list("only", [], "faults, by name; empty: all", flag_values=OPTIONS)
_SEED = flags.DEFINE_integer("seed", 0, "of the moments", flag_values=OPTIONS)
_OUT = flags.DEFINE_string(
    "out", str(RESULTS / "faults.json"), "where the table goes", flag_values=OPTIONS
)

_PRETRAIN = (
    "--config.train.steps=60",
    "--config.checkpoint.every_steps=5",
    "--config.logging.every_steps=5",
)
_CHECKPOINT = "--config.checkpoint={trained}"
# kind -> main.py's flags; {trained} is a finished run.
KINDS = {
    "DINO, RePre": ("--config=dino_vits:smoke", *_PRETRAIN),
    "MoCo v3, RePre, Swin": ("--config=moco_v3_swint:smoke", *_PRETRAIN),
    "MoCo v3, LoMaR's windows": ("--config=moco_v3_vits_lomar:smoke", *_PRETRAIN),
    "MAE": ("--config=mae_vits:smoke", *_PRETRAIN),
    "LoMaR": ("--config=lomar_vits:smoke", *_PRETRAIN),
    "fine-tuning": (
        "--config=eval/finetune",
        _CHECKPOINT,
        "--config.recipe.epochs=1",
        "--config.recipe.batch_size=32",
        "--config.recipe.warmup_epochs=0.5",
        "--config.save_every_steps=5",
    ),
    "linear probe": (
        "--config=eval/linear",
        _CHECKPOINT,
        "--config.train_batch_size=128",
        "--config.epochs=5",
        "--config.save_every_epochs=1",
    ),
    "k-NN": ("--config=eval/knn", _CHECKPOINT),
}
_FIRST = "DINO, RePre"
_LONGEST_SECONDS = 600.0
_EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}


class Broken(Exception):
    """A promise was not kept."""


@dataclasses.dataclass(frozen=True)
class Bench:
    """Where runs are made and compared.

    Attributes:
      folder: of all runs.
      random: draws the moments.
    """

    folder: Path
    random: random.Random

    def command(self, kind: str, workdir: Path, *more: str) -> list[str]:
        """``python main.py`` with the flags of a kind."""
        given = [flag.format(trained=self.folder / "trained") for flag in KINDS[kind]]
        given += [f"--config.cache_path={workdir}-features"] if "eval/" in given[0] else []
        return [sys.executable, "main.py", *given, f"--workdir={workdir}", *more]

    def begin(self, kind: str, workdir: Path, *more: str, **options: Any) -> subprocess.Popen:
        """Starts a run of a kind."""
        # Compiled programs are kept: else nearly every moment would be one of compiling.
        environment = {"JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled")}
        environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        return subprocess.Popen(
            self.command(kind, workdir, *more),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
            **options,
        )

    def end(self, process: subprocess.Popen, *expected: int) -> tuple[str, str]:
        """Waits for a run and returns what it said.

        Raises:
          Broken: it ended with another code than expected, with a traceback, or not at all.
        """
        try:
            out, err = process.communicate(timeout=_LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise Broken("the process did not end") from None
        if process.returncode not in expected:
            raise Broken(f"exit code {process.returncode}, not {expected}: {(out + err)[-1500:]}")
        if "Traceback" in err:
            raise Broken(f"a traceback: {err[-1500:]}")
        return out, err

    def refused(self, process: subprocess.Popen) -> str:
        """The one sentence with which a run ends that cannot go on."""
        _, err = self.end(process, 2)
        if not err.startswith("error: ") or err.count("\n") != 1:
            raise Broken(f"not one sentence: {err[-1500:]}")
        return err

    def finish(self, kind: str, workdir: Path) -> str:
        """Has the same command go on to the end; what it said, if the end is the undisturbed one's.

        Raises:
          Broken: it is not.
        """
        out, _ = self.end(self.begin(kind, workdir), 0)
        found, wanted = (left_by(path) for path in (workdir, self.undisturbed(kind)))
        if found != wanted:
            raise Broken(f"the end differs: {found} instead of {wanted}")
        return out

    def undisturbed(self, kind: str) -> Path:
        """Folder of the run that nothing happened to."""
        return self.folder / "undisturbed" / _slug(kind)

    def prepare(self) -> dict[str, float]:
        """Makes the undisturbed runs where they are missing; kind -> seconds that one takes."""
        trained = self.folder / "trained"
        self.end(self.begin(_FIRST, trained), 0)
        seconds = {}
        for kind in KINDS:
            self.end(self.begin(kind, self.undisturbed(kind)), 0)
            again = self.folder / "again"  # with everything compiled
            started = time.perf_counter()
            self.end(self.begin(kind, again), 0)
            seconds[kind] = time.perf_counter() - started
            if left_by(again) != left_by(self.undisturbed(kind)):
                raise SystemExit(f"Two undisturbed runs differ: {kind}.")
            shutil.rmtree(again)
            shutil.rmtree(f"{again}-features", ignore_errors=True)
        return seconds

    @contextlib.contextmanager
    def halfway(self, kind: str) -> Iterator[tuple[Path, subprocess.Popen]]:
        """(folder, process) of a run that has saved more than one checkpoint and still goes on."""
        workdir = Path(tempfile.mkdtemp(prefix=_slug(kind) + "-", dir=self.folder))
        process = self.begin(kind, workdir)
        try:
            deadline = time.monotonic() + _LONGEST_SECONDS
            while len(saved(workdir)) < 2:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise Broken(f"it did not get halfway: {process.communicate()}")
                time.sleep(0.02)
            yield workdir, process
        finally:
            process.kill()
            process.wait()
            shutil.rmtree(workdir)


def saved(workdir: Path) -> list[int]:
    """Steps of the whole checkpoints."""
    names = (path.name for path in (workdir / "checkpoints").glob("[0-9]*"))
    return sorted(int(name) for name in names if name.isdigit())


def left_by(workdir: Path) -> dict[str, Any]:
    """What must be equal in the end."""
    if not (workdir / "summary.json").exists():
        results = json.loads((workdir / "results.json").read_text())
        return {key: results[key] for key in ("value", "metrics")}
    return fingerprints(workdir)


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
        bench.end(process, _EXIT_CODES[number], -number, 0)
        bench.finish(kind, workdir)
    finally:
        shutil.rmtree(workdir)
        shutil.rmtree(f"{workdir}-features", ignore_errors=True)


def stopped_and_continued(bench: Bench) -> None:
    """SIGSTOP for some seconds, then SIGCONT."""
    with bench.halfway(_FIRST) as (workdir, process):
        process.send_signal(signal.SIGSTOP)
        time.sleep(3)
        process.send_signal(signal.SIGCONT)
        bench.end(process, 0)
        bench.finish(_FIRST, workdir)


def disk_full(bench: Bench) -> None:
    """No file may grow beyond 64 KiB, as on a full disk: one sentence, then it goes on."""
    with bench.halfway(_FIRST) as (workdir, process):
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (64 * 1024, 64 * 1024))
        if "space" not in bench.refused(process):
            raise Broken("the disk is not named")
        bench.finish(_FIRST, workdir)


def read_only_folder(bench: Bench) -> None:
    """The folder may not be written to: one sentence, then it goes on."""
    with bench.halfway(_FIRST) as (workdir, process):
        process.kill()
        process.wait()
        paths = [workdir, *(path for path in workdir.rglob("*") if path.is_dir())]
        for path in paths:
            path.chmod(0o555)
        nobody = 65534 if os.geteuid() == 0 else None  # nothing is forbidden to root
        try:
            refused = bench.begin(_FIRST, workdir, user=nobody)
            if "permission denied" not in bench.refused(refused):
                raise Broken("the permission is not named")
        finally:
            for path in paths:
                path.chmod(0o755)
        bench.finish(_FIRST, workdir)


def damaged(bench: Bench, how: str) -> None:
    """A file of the newest checkpoint is torn, has one bit flipped, or is missing."""
    with bench.halfway(_FIRST) as (workdir, process):
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
        if f"Checkpoint {newest.name} is damaged" not in bench.finish(_FIRST, workdir):
            raise Broken("the damage is not told")


def two_on_one_folder(bench: Bench) -> None:
    """A second process is refused, the first is not disturbed."""
    with bench.halfway(_FIRST) as (workdir, process):
        process.send_signal(signal.SIGSTOP)  # or it would end before the other begins
        if "is training in" not in bench.refused(bench.begin(_FIRST, workdir)):
            raise Broken("the other process is not named")
        process.send_signal(signal.SIGCONT)
        bench.end(process, 0)
        bench.finish(_FIRST, workdir)


def worker_killed(bench: Bench) -> None:
    """A process that decodes images is killed: the run ends at once, then it goes on."""
    workdir = Path(tempfile.mkdtemp(prefix="worker-", dir=bench.folder))
    try:
        process = bench.begin(_FIRST, workdir, "--config.data.workers=2")
        deadline = time.monotonic() + _LONGEST_SECONDS
        while not (workers := _workers(process.pid)):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Broken(f"no worker was seen: {process.communicate()}")
            time.sleep(0.02)
        os.kill(workers[0], signal.SIGKILL)
        bench.end(process, 0, 2)
        bench.finish(_FIRST, workdir)
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
}


def cases(bench: Bench, seconds: dict[str, float]) -> Iterator[tuple[str, str, Callable]]:
    """(fault, case, function that does it): all that is to be counted."""
    kinds = list(KINDS)
    for number, kind in enumerate(kinds):
        share = _KILLS.value * (number + 1) // len(kinds) - _KILLS.value * number // len(kinds)
        if share:
            yield "killed", kind, lambda k=kind, n=share: list(killed(bench, k, seconds[k], n))
    for kind in kinds:
        for signal_ in _EXIT_CODES:
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


def _slug(kind: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in kind)


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
