"""Processes that make one run: how they are started, and what becomes of them when one is lost."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from whole_runs import ROOT, checkpoint_steps, command, rows

from repre_jax import machines
from repre_jax.errors import UserError
from repre_jax.runs.starts import read_starts

LOST = "error: Another process of this run has ended or cannot be reached ("


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def by_flags(number: int, port: int) -> tuple[list[str], dict[str, str]]:
    """Two terminals."""
    where = f"--coordinator=localhost:{port}"
    return [where, "--processes=2", f"--process={number}"], {}


def by_slurm(number: int, port: int) -> tuple[list[str], dict[str, str]]:
    """What srun tells its tasks; the port follows from the job's number."""
    told = {"JOB_ID": port, "STEP_NODELIST": "localhost", "NTASKS": 2, "PROCID": number}
    told |= {"LOCALID": number}
    return [], {f"SLURM_{name}": str(value) for name, value in told.items()}


def start(task: str, fated: int = 0, started=by_flags) -> list[subprocess.Popen]:
    port = free_port()
    running = []
    for number in range(2):
        arguments, told = started(number, port)
        running.append(
            subprocess.Popen(
                [sys.executable, "tests/met.py", task, str(fated), *arguments],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": "", **told},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return running


@pytest.mark.slow
@pytest.mark.parametrize("started", [by_flags, by_slurm])
def test_the_command_line_joins_two_processes(started):
    for process in start("count", started=started):
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert "met 2 of 2, 2 devices" in out


@pytest.mark.slow
@pytest.mark.parametrize(("fated", "started"), [(0, by_slurm), (1, by_flags)])
def test_the_others_end_with_a_sentence_when_one_is_killed(fated, started):
    running = start("killed", fated, started)
    outputs = [process.communicate(timeout=120) for process in running]
    assert running[fated].returncode == 128 + signal.SIGKILL
    assert running[1 - fated].returncode == machines.PROCESS_LOST == 75
    (told,) = outputs[1 - fated][1].splitlines()
    assert told.startswith(LOST)
    assert "the run goes on from its newest checkpoint, on any number of processes." in told


@pytest.mark.slow
@pytest.mark.parametrize("fated", [0, 1])
def test_they_end_within_a_minute_where_no_connection_breaks(fated):
    running = start("killed while others wait", fated)
    running[fated].communicate(timeout=120)
    lost = time.monotonic()
    _, err = running[1 - fated].communicate(timeout=120)
    assert time.monotonic() - lost < 60
    assert running[1 - fated].returncode == 75
    assert err.startswith(LOST) and err.count("\n") == 1


@pytest.mark.slow
def test_a_mistake_of_one_ends_all():
    one, other = start("mistaken", fated=1)
    _, err = other.communicate(timeout=120)
    assert (other.returncode, err) == (2, "error: The disk is full.\n")
    assert one.communicate(timeout=120)[1].startswith(LOST)
    assert one.returncode == 75


@pytest.mark.slow
def test_ctrl_c_in_one_stops_all():
    running = start("told to stop", fated=1)
    outputs = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [143, 143], outputs
    first, second = ([x for x in out.splitlines() if "stopped" in x] for out, _ in outputs)
    assert first == second and len(first) == 1


@pytest.mark.slow
def test_sigterm_to_one_stops_all_and_the_run_goes_on_alone(tmp_path):
    workdir, port, steps = tmp_path / "run", free_port(), 30
    flags = ["--config=configs/moco_v3_vits.py:smoke", f"--workdir={workdir}"]
    flags += [f"--config.train.steps={steps}", "--config.train.devices=0"]
    flags += ["--config.train.shard_state=True", "--config.checkpoint.every_steps=0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment["XLA_FLAGS"] = os.environ["XLA_FLAGS"].replace("count=8", "count=4")
    running = [
        subprocess.Popen(
            [sys.executable, "main.py", *flags, "--distributed", *by_flags(process, port)[0]],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    while not (workdir / "metrics.jsonl").exists() or not rows(workdir):
        assert [process.poll() for process in running] == [None, None]
        time.sleep(0.1)
    running[1].send_signal(signal.SIGTERM)
    (out, err), (_, other_err) = (process.communicate(timeout=120) for process in running)
    assert [process.returncode for process in running] == [143, 143], err + other_err
    (step,) = checkpoint_steps(workdir)
    assert f"Stopped and saved at step {step}; the same command goes on." in out
    assert [row["step"] for row in rows(workdir)] == list(range(1, step + 1))

    assert command(*flags, "--config.train.devices=2", "--config.train.shard_state=False") == 0
    assert [row["step"] for row in rows(workdir)] == list(range(1, steps + 1))
    before, after = read_starts(workdir)
    assert (before["processes"], after["processes"]) == (2, 1)
    assert {"train.devices: 0 -> 2", "train.shard_state: true -> false"} < set(after["changed"])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--distributed", "--processes=2"], "belong together"),
        (["--distributed", "--processes=2", "--process=0", "--coordinator=here"], ":<port>"),
        (["--distributed", "--processes=2", "--process=2", "--coordinator=a:1"], "one of 0 to 1"),
        (["--processes=2"], "need --distributed"),
    ],
)
def test_what_does_not_say_where_to_meet_is_refused(given, told, capsys):
    assert command("--config=quickstart", *given) == 2
    assert told in capsys.readouterr().err


def test_an_error_of_another_kind_is_nobody_elses_fault(monkeypatch):
    error = RuntimeError("Gloo AllGather failed: Connection reset by peer")
    assert machines.lost(error) == "", "alone"
    monkeypatch.setattr(machines.jax.distributed, "is_initialized", lambda: True)
    assert machines.lost(error).startswith(LOST.removeprefix("error: "))
    assert machines.lost(ValueError("shapes (2, 3) and (4,) do not fit")) == ""
    assert machines.lost(UserError("Connection reset")) == ""
    wrapped = ValueError("the step failed")
    wrapped.__cause__ = error
    assert "Connection reset by peer" in machines.lost(wrapped)


def watched(child: str) -> subprocess.CompletedProcess:
    """A command that runs ``child`` in the process that does the work."""
    code = (
        "import os, sys\n"
        "from repre_jax import machines\n"
        "if not machines.is_watched():\n"
        "    sys.exit(machines.run_watched())\n"
        f"{child}\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def test_what_jax_says_when_it_aborts_becomes_a_sentence():
    done = watched(
        "os.write(2, b'a warning\\n"
        "E1127 23:54:09.5 17408 coordination_service.cc:1549] Use error polling ...\\n1\\n"
        "F1127 23:54:09.6 17419 client.h:80] Terminating process because the JAX distributed "
        "service detected fatal errors. absl::Status: UNAVAILABLE: task 1 is unhealthy\\n"
        "    @     0x7f2896a40634  absl::LogMessage::SendToLog()\\n')\n"
        "os.abort()"
    )
    assert done.returncode == 75
    warning, told = done.stderr.splitlines()
    assert warning == "a warning"
    assert told.startswith(f"{LOST}UNAVAILABLE: task 1 is unhealthy")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "code"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), 15)", 143), ("os.abort()", 134)]
)
def test_everything_else_is_passed_on(end, code):
    line = "W1127 23:54:09.5 17408 coordination_service.cc:185] of no concern\n"
    done = watched(f"os.write(2, {line.encode()!r})\n{end}")
    assert (done.returncode, done.stderr) == (code, line)
