"""What the command line makes of mistakes: wrong keys, values, paths, labels, checkpoints, images.

    python -m benchmarks.bad_inputs

Every one must end with exit code 2 and one sentence on the standard error, and leave no file
behind. A table holds the mistakes that files and commands can have; a seeded generator misspells
every key of every config and gives it values of a wrong type, a wrong range and a wrong name. All
run in one process, and nothing is trained. Writes ``results/bad_inputs.json``: how many of each
kind, how many were not refused so, and the seconds that the refusals took.
"""

import collections
import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from absl import flags

from benchmarks.bad_commands import table
from benchmarks.bad_folders import prepare
from benchmarks.bad_values import generated
from benchmarks.options import start
from benchmarks.provenance import provenance, save_result
from repre_jax import command_line

LONGEST_SECONDS = 30

OPTIONS = flags.FlagValues()
_SEED = flags.DEFINE_integer("seed", 0, "of the generator", flag_values=OPTIONS)
_NAME = flags.DEFINE_string("name", "bad_inputs", "of the file of results", flag_values=OPTIONS)


class Outcome(NamedTuple):
    """What a command did.

    Attributes:
      code: exit code, or the exception that ended it.
      err: what it wrote to the standard error.
      left: paths that were not there before.
      seconds: it took.
    """

    code: int | str
    err: str
    left: list[str]
    seconds: float

    @property
    def fault(self) -> str:
        """What is wrong with it as the answer to a mistake; empty when nothing is."""
        if self.code != 2:
            return f"ended with {self.code}"
        if not self.err.startswith("error: ") or self.err.count("\n") != 1:
            return f"not one sentence: {self.err!r}"
        if self.left:
            return f"left {self.left[:3]} behind"
        return f"took {self.seconds:.0f} s" if self.seconds > LONGEST_SECONDS else ""


def run(arguments: tuple[str, ...], root: Path) -> Outcome:
    """Runs a command in this process, in the folder ``root``, under which it may leave nothing."""
    before, out, err = set(root.rglob("*")), io.StringIO(), io.StringIO()
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        below = stack.enter_context(_standard_error())
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        stack.enter_context(contextlib.chdir(root))
        try:
            code = command_line.main(["main.py", *arguments])
        except (Exception, SystemExit) as error:  # what a user would see as a traceback
            code = f"{type(error).__name__}: {error}"
    seconds = time.monotonic() - started
    new = sorted(set(root.rglob("*")) - before, reverse=True)
    for path in new:  # so that the next command finds the folder as it was
        path.rmdir() if path.is_dir() else path.unlink()
    left = [str(path.relative_to(root)) for path in reversed(new)]
    return Outcome(code, err.getvalue() + below.getvalue(), left, seconds)


@contextlib.contextmanager
def _standard_error():
    """What libraries write to the file descriptor itself, past Python."""
    written = io.StringIO()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield written
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            written.write(file.read().decode(errors="replace"))


def main(argv: list[str]) -> None:
    """Runs all of them; the exit code is 1 when one was not refused as it should be."""
    del argv
    kinds, faults, seconds = collections.Counter(), [], {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepare(root)
        for case in [*table(root), *generated(root, _SEED.value)]:
            outcome = run(case.arguments, root)
            given = " ".join(case.arguments).replace(folder, "<folder>")
            kinds[case.kind] += 1
            seconds[given] = outcome.seconds
            if outcome.fault:
                faults.append({"arguments": given, "fault": outcome.fault})
                print(f"{given}: {outcome.fault}", file=sys.stderr)
    result = {
        "what": "mistakes that must end with exit code 2, one sentence, and no file left behind",
        "mistakes": sum(kinds.values()),
        "by_kind": dict(sorted(kinds.items())),
        "not_refused_so": len(faults),
        "faults": faults,
        "seconds": {
            "median": round(statistics.median(seconds.values()), 3),
            "longest": round(max(seconds.values()), 3),
            "longest_of": max(seconds, key=seconds.get),
            "total": round(sum(seconds.values()), 1),
        },
        "seed": _SEED.value,
    }
    path = save_result(_NAME.value, result | provenance(device=False))
    print(f"{sum(kinds.values())} mistakes, {len(faults)} not refused as they should be: {path}")
    if faults:
        raise SystemExit(1)


if __name__ == "__main__":
    start(main, OPTIONS)
