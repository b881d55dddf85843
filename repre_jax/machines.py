"""Several processes, on one machine or on many, as one run: how they meet, and how they end.

JAX knows who takes part on Slurm, Open MPI, Kubernetes and TPU pods; elsewhere every process is
told. From then on a run of several processes can only go on with all of them. One that fails leaves
at once; of one that is lost the others hear by a broken connection, or by JAX's heartbeats.

JAX then ends a process by ``abort``, in the middle of whatever Python does, after pages of text
(jaxlib 0.10: a callback of our own in its place fails with ``std::bad_cast``). So a process that
takes part is the child of one that only waits for it, and says in a sentence what happened.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

import jax

from repre_jax.errors import UserError
from repre_jax.stop_signals import STOP_SIGNALS

# Exit code of a process whose run has lost another one: that of a temporary failure, after which
# the same command is worth repeating (sysexits.h).
PROCESS_LOST = os.EX_TEMPFAIL
_HEARTBEAT_SECONDS = 30  # without one from a process, it is taken for dead
_PARENT_CHECK_SECONDS = 1.0
_CHILD = "REPRE_JAX_CHILD"  # in the environment of the process that does the work
_LOST = (
    "Another process of this run has ended or cannot be reached ({}), and none goes on without it: "
    "see what it said, and start all of them again; the run goes on from its newest checkpoint, on "
    "any number of processes."
)
_MOST_TOLD = 200  # characters of what a library says
# What the libraries that connect processes say: Gloo, NCCL, gRPC, JAX's coordination service.
_BROKEN = re.compile(
    r"gloo|nccl|coordination.?service|heartbeat|socket closed|connection (reset|closed|refused)|"
    r"barrier|UNAVAILABLE",
    re.IGNORECASE,
)
_SERVICE = re.compile(rb"^[WEF]\d{4} .*(coordination_service|preemption_sync|client\.h)")
_FATAL = b"distributed service detected fatal errors"


def join(coordinator: str = "", processes: int | None = None, process: int | None = None) -> None:
    """Joins the other processes of a run; all arguments, or none where JAX finds them by itself.

    Args:
      coordinator: "host:port" of process 0, which listens there.
      processes: how many there are.
      process: the number of this one, from 0.

    Raises:
      UserError: arguments are missing, or there are no others.
    """
    given = (bool(coordinator), processes is not None, process is not None)
    if any(given) and not all(given):
        raise UserError(
            "--coordinator=<host of process 0>:<port>, --processes=<how many> and --process=<which "
            "of them, from 0> belong together: give all three, or none on a cluster that JAX knows."
        )
    if all(given) and not re.fullmatch(r".+:\d+", coordinator):
        raise UserError(f"--coordinator={coordinator} must be <host of process 0>:<port>.")
    if all(given) and not 0 <= process < processes:
        raise UserError(
            f"--process={process} must be one of 0 to {processes - 1}, --processes - 1."
        )
    try:
        jax.distributed.initialize(
            coordinator or None, processes, process, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS
        )
    except (ValueError, RuntimeError) as error:
        told = " ".join(str(error).split())
        raise UserError(
            f"--distributed finds no other processes ({told}): leave it out for one alone; without "
            "a cluster that JAX knows give --coordinator, --processes and --process, too."
        ) from error
    if jax.default_backend() == "cpu":
        # JAX keeps the programs of process 0 alone, and Gloo waits for the others no longer than
        # 30 s, which they may need to compile.
        jax.config.update("jax_enable_compilation_cache", False)
    if jax.process_index() == 0:
        print(f"{jax.process_count()} processes, {jax.device_count()} devices.")


def lost(error: BaseException) -> str:
    """What to say of an error that a lost process has caused here; empty for any other one."""
    if not jax.distributed.is_initialized():
        return ""
    seen: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in seen:
        if _BROKEN.search(str(following)) and not isinstance(following, UserError):
            return _told(str(following))
        seen.append(following)
        following = following.__cause__ or following.__context__
    return ""


def _told(reason: str) -> str:
    reason = " ".join(reason.split())
    cut = "..." if len(reason) > _MOST_TOLD else ""
    return _LOST.format(reason[:_MOST_TOLD].rstrip(".") + cut)


def is_watched() -> bool:
    """Whether this process is the child of one that waits for it."""
    return _CHILD in os.environ


def run_as_child(main: Callable[[], int]) -> NoReturn:
    """Runs ``main`` in the process that does the work, and ends it with its exit code.

    A failure ends the process at once: JAX would first wait for the others, which wait for it.
    """
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    try:
        code = main()
    except BaseException:
        traceback.print_exc()
        code = 1
    stopped = code - 128 in STOP_SIGNALS  # all of them, by agreement
    if code and not stopped:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run_watched() -> int:
    """Runs this process's command in a child; returns its exit code, or ``PROCESS_LOST``."""
    child = subprocess.Popen(
        [sys.executable, *sys.orig_argv[1:]],
        env=os.environ | {_CHILD: "1"},
        stderr=subprocess.PIPE,
        process_group=0,  # Ctrl-C comes to this process, which passes it on
    )

    def pass_on(number: int, _) -> None:
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(number)

    for number in STOP_SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, pass_on)
    held = _relay(child.stderr)
    code = child.wait()
    if any(_FATAL in line for line in held):
        reason = b"".join(held).decode(errors="replace").partition("absl::Status:")[2]
        print(f"error: {_told(reason)}", file=sys.stderr)
        return PROCESS_LOST
    if code != PROCESS_LOST:
        _write(held)
    return code if code >= 0 else 128 - code


def _relay(stream) -> list[bytes]:
    """Hands lines on to standard error, up to the first one of JAX's service; returns the rest."""
    held: list[bytes] = []
    for line in stream:
        if held or _SERVICE.match(line):
            held.append(line)
        else:
            _write([line])
    return held


def _write(lines: list[bytes]) -> None:
    for line in lines:
        print(line.decode(errors="replace"), end="", file=sys.stderr)


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK_SECONDS)
    os._exit(1)
