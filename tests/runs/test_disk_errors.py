"""What libraries leave behind after an error that was told stays off the screen."""

import os
import subprocess
import sys

from whole_runs import ROOT

LEFT_AT_EXIT = """
import sys
from repre_jax.runs.disk_errors import silence_echoes

class Left:
    async def write_fragment(self):
        pass

if sys.argv[1] == "silenced":
    silence_echoes()
left = Left()
left.itself, left.coroutine = left, left.write_fragment()
"""


def said(how: str) -> str:
    """Standard error of a process that ends with a coroutine that never began."""
    done = subprocess.run(
        [sys.executable, "-c", LEFT_AT_EXIT, how],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr


def test_writes_that_never_began_are_not_told():
    assert "was never awaited" in said("plain")
    assert said("silenced") == ""
