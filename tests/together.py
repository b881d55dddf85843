"""Runs commands of main.py as one of several processes; a script for test_processes.

python tests/together.py <port> <processes> <this one's number> <commands as JSON>
"""

import json
import os
import sys

import jax
from whole_runs import ROOT, command

if __name__ == "__main__":
    port, processes, number, commands = sys.argv[1:]
    os.chdir(ROOT)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", int(processes), int(number))
    for arguments in json.loads(commands):
        code = command(*arguments)
        if code:
            sys.exit(code)
