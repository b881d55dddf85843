"""Small runs of every kind, their undisturbed ends, and what must be equal: for ``faults``."""

import contextlib
import dataclasses
import functools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.resume_exact import fingerprints
from repre_jax.evaluation.checkpoint import checkpoint_steps

_PRETRAIN = (
    "--config.train.steps=40",
    "--config.train.batch_size=8",
    "--config.model.width=64",
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
FIRST = "DINO, RePre"
LONGEST_SECONDS = 600.0


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
        given = [*KINDS[kind]]
        if _CHECKPOINT in given:
            trained = self.undisturbed(FIRST)
            given = [flag.format(trained=trained) for flag in given]
        given += [f"--config.cache_path={workdir}-features"] if "eval/" in given[0] else []
        return [sys.executable, "main.py", *given, f"--workdir={workdir}", *more]

    def begin(
        self,
        kind: str,
        workdir: Path,
        *more: str,
        prefix: Sequence[str] = (),
        preface: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen:
        """Starts a run of a kind.

        Args:
          kind: of ``KINDS``.
          workdir: its folder.
          *more: main.py's flags.
          prefix: a command that is given the run's own.
          preface: Python that is run in the process before the command.
          environment: on top of this process's.
        """
        python, script, *given = self.command(kind, workdir, *more)
        if preface:
            script = f"{preface}; from repre_jax.command_line import run; run()"
        # Compiled programs are kept: else nearly every moment would be one of compiling.
        compiled = {"JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled")}
        compiled |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        return subprocess.Popen(
            [*prefix, python, *(["-c"] if preface else []), script, *given],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | compiled | (environment or {}),
        )

    def end(self, process: subprocess.Popen, *expected: int) -> tuple[str, str]:
        """Waits for a run and returns what it said.

        Raises:
          Broken: it ended with another code than expected, with a traceback, or not at all.
        """
        try:
            out, err = process.communicate(timeout=LONGEST_SECONDS)
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
        """Folder of the run that nothing happened to, made when it is first asked for."""
        folder = self.folder / "undisturbed" / slug(kind)
        if not folder.exists():
            self.end(self.begin(kind, folder), 0)
        return folder

    @functools.cache  # noqa: B019 (one bench a process)
    def seconds(self, kind: str) -> float:
        """How long a run of a kind takes when everything is compiled; it must be exact, too."""
        wanted = left_by(self.undisturbed(kind))
        with self.workdir() as again:
            started = time.perf_counter()
            self.end(self.begin(kind, again), 0)
            seconds = time.perf_counter() - started
            if left_by(again) != wanted:
                raise SystemExit(f"Two undisturbed runs differ: {kind}.")
        return seconds

    @contextlib.contextmanager
    def workdir(self) -> Iterator[Path]:
        """A folder for a run, which is removed with the features beside it."""
        path = Path(tempfile.mkdtemp(prefix="run-", dir=self.folder))
        try:
            yield path
        finally:
            shutil.rmtree(path)
            shutil.rmtree(f"{path}-features", ignore_errors=True)

    @contextlib.contextmanager
    def halfway(self, kind: str) -> Iterator[tuple[Path, subprocess.Popen]]:
        """(folder, process) of a run that has saved more than one checkpoint and still goes on."""
        with self.workdir() as workdir:
            process = self.begin(kind, workdir)
            try:
                wait(process, lambda: len(checkpoint_steps(workdir)) > 1)
                yield workdir, process
            finally:
                process.kill()
                process.wait()


def wait(process: subprocess.Popen, happened: Callable[[], Any]) -> Any:
    """Waits for something to happen in a run and returns it; Broken when the run ends before."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while not (found := happened()):
        if process.poll() is not None or time.monotonic() > deadline:
            raise Broken(f"what was waited for did not happen: {process.communicate()}")
        time.sleep(0.02)
    return found


def left_by(workdir: Path) -> dict[str, Any]:
    """What must be equal in the end."""
    if not (workdir / "summary.json").exists():
        results = json.loads((workdir / "results.json").read_text())
        metrics = {key: x for key, x in results["metrics"].items() if key != "images_per_second"}
        return {"value": results["value"], "metrics": metrics}
    return fingerprints(workdir)


def slug(kind: str) -> str:
    """A kind as the name of a folder."""
    return "".join(letter if letter.isalnum() else "_" for letter in kind)
