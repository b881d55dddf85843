"""The command line with a task of its own in place of training; a script for test_machines.

python tests/met.py <task> <number of the process that meets its fate> <arguments of main.py>
"""

import os
import signal
import sys
import time

import jax
import numpy as np
from jax.experimental import multihost_utils

from repre_jax import command_line
from repre_jax.errors import UserError
from repre_jax.runs.interruption import Interruption, Stopped


def count(*_) -> None:
    total = multihost_utils.process_allgather(np.ones(1)).sum()
    print(f"met {int(total)} of {jax.process_count()}, {jax.device_count()} devices")


def exchange(act) -> None:
    """Meets the others again and again; one of them does something else."""
    for _ in range(600):
        multihost_utils.process_allgather(np.ones(1))
        if jax.process_index() == FATED:
            act()
        time.sleep(0.1)


def wait(act) -> None:
    """As if in a long computation of its own, which no broken connection ends."""
    multihost_utils.sync_global_devices("begun")
    if jax.process_index() == FATED:
        act()
    time.sleep(120)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def mistake() -> None:
    raise UserError("The disk is full.")


def told_to_stop(*_) -> None:
    """One process gets Ctrl-C, by way of the one that waits for it; they agree on a step."""
    with Interruption().listening():
        for step in range(600):
            multihost_utils.process_allgather(np.ones(1))
            if step == 5 and jax.process_index() == FATED:
                os.kill(os.getppid(), signal.SIGINT)
            if multihost_utils.reached_preemption_sync_point(step):
                print(f"stopped at {step}")
                raise Stopped(signal.SIGTERM)
            time.sleep(0.1)


TASKS = {
    "count": count,
    "killed": lambda *_: exchange(kill),
    "killed while others wait": lambda *_: wait(kill),
    "told to stop": told_to_stop,
    "mistaken": lambda *_: exchange(mistake),
}

if __name__ == "__main__":
    task, fated, *arguments = sys.argv[1:]
    FATED = int(fated)
    command_line.TASKS["pretrain"] = TASKS[task]
    sys.argv = ["main.py", "--config=quickstart", "--distributed", *arguments]
    command_line.run()
