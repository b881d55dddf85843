"""Signals that ask a process to stop."""

import os
import signal
import subprocess
import sys

import pytest
from whole_runs import ROOT

from repre_jax.runs.interruption import Interruption, Stopped


@pytest.fixture(autouse=True)
def heeded():
    """Signals are heeded, though tests may run in the background or under nohup, deaf to them."""
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.SIGHUP: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_the_first_signal_is_only_noted(number, exit_code):
    before = signal.getsignal(number)
    interruption = Interruption()
    with interruption.listening():
        assert interruption.signal is None
        signal.raise_signal(number)
        assert interruption.signal == number
    assert signal.getsignal(number) == before
    assert Stopped(interruption.signal).exit_code == exit_code


def test_what_is_ignored_stays_ignored(monkeypatch):
    """Under nohup a closed terminal is no reason to stop."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        interruption = Interruption()
        with interruption.listening():
            signal.raise_signal(signal.SIGHUP)
            assert interruption.signal is None
    finally:
        signal.signal(signal.SIGHUP, before)


def python(code: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_the_second_signal_ends_the_process_at_once():
    process = python(
        "import signal, time\n"
        "from repre_jax.runs.interruption import Interruption\n"
        "with Interruption().listening():\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "    print('noted', flush=True)\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "    print('still there')\n"
    )
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (-signal.SIGTERM, "noted\n", "")


def test_before_the_first_step_ctrl_c_ends_the_command_without_a_traceback(tmp_path):
    """While it compiles, say."""
    code = (
        "import sys\n"
        "from repre_jax import command_line\n"
        f"sys.argv = ['main.py', '--config=quickstart:smoke', '--workdir={tmp_path / 'run'}']\n"
        "command_line.run()\n"
    )
    process = python(code, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert process.stdout.readline().startswith("Images: ")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (-signal.SIGINT, "")


def test_the_command_outlives_its_reader():
    """``--help | head -1``."""
    process = python(
        "import sys; from repre_jax import command_line; sys.argv = ['main.py', '--help']; "
        "command_line.run()",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=60) == 0
