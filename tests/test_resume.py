"""A run that is stopped, killed, damaged or out of disk ends, bit for bit, where it would have."""

import logging
import signal
from pathlib import Path

import jax
import pytest
from whole_runs import (
    checkpoint_steps,
    command,
    image_folder,
    killable_command,
    rows,
    summary,
    without_timings,
)

from repre_jax.runs.logs import RunLogs
from repre_jax.runs.starts import read_starts

CONFIGS = {"dino": "configs/dino_vits.py:smoke", "moco_v3": "configs/moco_v3_vits.py:smoke"}
# Two steps an epoch, evaluations at 4 and 8, checkpoints at 2, 4, 6 and 8.
STEPS = 8


def arguments(method: str, images: Path, workdir: Path) -> list[str]:
    return [
        f"--config={CONFIGS[method]}",
        f"--workdir={workdir}",
        "--config.data.source=folder",
        f"--config.data.path={images}",
        f"--config.train.steps={STEPS}",
        "--config.checkpoint.keep=3",
        "--config.evaluation.knn_every_epochs=2",
        "--config.evaluation.batch_size=32",
        "--config.model.depth=2",  # the compilation is what these tests pay for
        "--config.repre.taps=0,1",
        "--config.model.drop_path=0.1",  # draws from a stream that must go on, too
    ]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return image_folder(tmp_path_factory.mktemp("images"))


BOTH = ["dino", pytest.param("moco_v3", marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=BOTH)
def uninterrupted(request, images, tmp_path_factory):
    """(method, its run folder, numbers of compilations by program)."""
    workdir = tmp_path_factory.mktemp("uninterrupted") / request.param
    compiled = count_compilations(lambda: command(*arguments(request.param, images, workdir)))
    return request.param, workdir, compiled


def count_compilations(run) -> dict[str, int]:
    """How often each program was compiled during ``run``, which must exit with 0."""
    counts: dict[str, int] = {}

    class Counter(logging.Handler):
        def emit(self, record):
            words = record.getMessage().split()
            if words[0] == "Compiling":
                counts[words[1]] = counts.get(words[1], 0) + 1

    handler = Counter()
    logger = logging.getLogger("jax._src.interpreters.pxla")
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False
    try:
        with jax.log_compiles():
            assert run() == 0
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
    return counts


def assert_ends_alike(workdir: Path, reference: Path) -> None:
    """Same parameters, same rows, every step once, same numbers in the summary."""
    assert summary(workdir)["params_sha256"] == summary(reference)["params_sha256"]
    assert [row["step"] for row in rows(workdir)] == list(range(1, STEPS + 1))
    assert rows(workdir) == rows(reference)
    assert without_timings(summary(workdir)) == without_timings(summary(reference))


def test_uninterrupted_run(uninterrupted):
    _, workdir, compiled = uninterrupted
    assert [row["step"] for row in rows(workdir)] == list(range(1, STEPS + 1))
    assert [row["step"] for row in rows(workdir) if "knn/top1" in row] == [4, 8]
    assert checkpoint_steps(workdir)[-3:] == [4, 6, 8]
    assert summary(workdir)["steps"] == STEPS
    assert [n for name, n in compiled.items() if "train_step" in name] == [1], compiled


def test_terminated_and_resumed_in_one_process(uninterrupted, images, tmp_path, monkeypatch):
    """SIGTERM while step 2 is logged: the step under way is finished and saved, none after it."""
    method, reference, _ = uninterrupted
    log = RunLogs.log

    def log_and_signal(self, step, *args, **kwargs):
        log(self, step, *args, **kwargs)
        if step == 2:
            signal.raise_signal(signal.SIGTERM)

    workdir = tmp_path / "run"
    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(RunLogs, "log", log_and_signal)
        assert command(*arguments(method, images, workdir)) == 143
    assert signal.getsignal(signal.SIGTERM) == handler
    assert checkpoint_steps(workdir) == [2, 3]
    assert [row["step"] for row in rows(workdir)] == [1, 2, 3]
    assert not (workdir / "summary.json").exists()

    compiled = count_compilations(lambda: command(*arguments(method, images, workdir)))
    assert [start["step"] for start in read_starts(workdir)] == [0, 3]
    assert_ends_alike(workdir, reference)
    assert [n for name, n in compiled.items() if "train_step" in name] == [1], compiled


def damage_newest(workdir: Path) -> int:
    """Changes a byte in the largest file of the newest checkpoint; returns its step."""
    step = checkpoint_steps(workdir)[-1]
    files = [p for p in (workdir / "checkpoints" / str(step)).rglob("*") if p.is_file()]
    largest = max(files, key=lambda p: p.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 0xFF
    largest.write_bytes(data)
    return step


@pytest.mark.slow
def test_killed_terminated_damaged_and_out_of_disk(uninterrupted, images, tmp_path):
    """One run folder, the same command again and again, something new happening every time."""
    method, reference, _ = uninterrupted
    workdir = tmp_path / "run"

    def run(moment=""):
        done = killable_command(moment, *arguments(method, images, workdir))
        return done.returncode, done.stdout, done.stderr

    kills = [("killed in a save", {()}), ("killed between the log and the save", {(2,), (2, 4)})]
    if method == "moco_v3":  # the slow tier has time for more; benchmarks.faults has a hundred
        kills[1:1] = [("killed in the first step", {()})]
        # The save of step 2 may or may not be on disk when step 4 is evaluated.
        kills[2:2] = [("killed in an evaluation", {(), (2,)})]
        kills += [("killed while input is read", None)]
    for moment, saved in kills:
        code, out, err = run(moment)
        assert code == -signal.SIGKILL, (moment, out, err)
        assert saved is None or tuple(checkpoint_steps(workdir)) in saved, moment
        assert not (workdir / "summary.json").exists()
    before = checkpoint_steps(workdir)[-1]

    code, out, err = run("terminated")
    assert code == 143, err
    assert f"Resumed at step {before}." in out
    stopped = checkpoint_steps(workdir)[-1]
    assert stopped == before + 3, "the signal came when the second step was logged"
    assert f"Stopped and saved at step {stopped}; the same command goes on." in out

    damaged = damage_newest(workdir)
    sound = checkpoint_steps(workdir)[-2]
    code, out, err = run("disk full")
    assert code == 2
    assert f"Checkpoint {damaged} is damaged (its bytes are not those that were saved)" in out
    assert f"goes on from checkpoint {sound}." in out
    assert err.startswith("error: Cannot write checkpoints to"), err[:2000]
    assert err.count("\n") == 1, err[:2000]
    assert "no space is left there" in err and "Earlier checkpoints are intact." in err
    assert checkpoint_steps(workdir)[-1] == sound

    code, out, err = run("killed at the very end")
    assert code == -signal.SIGKILL, (out, err)
    assert f"Resumed at step {sound}." in out
    assert checkpoint_steps(workdir)[-1] == STEPS

    code, out, err = run()
    assert code == 0, err
    assert_ends_alike(workdir, reference)

    code, out, err = run()
    assert code == 0
    assert f"{workdir} is finished: its metrics are in {workdir / 'summary.json'}." in out
