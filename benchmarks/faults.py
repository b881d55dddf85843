"""What runs promise under faults, counted: killed, told to stop, out of disk, damaged, disturbed.

    python -m benchmarks.faults
    python -m benchmarks.faults --kills=20 --only=killed,damaged

Small runs of every kind (pre-training with RePre, with LoMaR's windows, MAE, LoMaR, fine-tuning, a
linear probe, k-NN) are disturbed, started again by the same command, and compared with the
undisturbed one: SHA-256 of all parameters and every logged number but times, or all that an
evaluation found. ``killed`` sends SIGKILL at random moments from the start of the process to its
end. Writes ``results/faults.json`` after every case; stopped, the same command goes on.
"""

import json
import random
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks.fault_bench import KINDS, Bench, Broken
from benchmarks.fault_cases import EXIT_CODES, ONCE, PROMISES, killed, told_to_stop
from benchmarks.options import start
from benchmarks.provenance import RESULTS, provenance, write_result
from repre_jax.errors import UserError

OPTIONS = flags.FlagValues()
_KILLS = flags.DEFINE_integer(
    "kills", 100, "SIGKILLs, over all kinds of run", lower_bound=1, flag_values=OPTIONS
)
_REPEATS = flags.DEFINE_integer(
    "repeats", 3, "of each fault but kills and signals", lower_bound=1, flag_values=OPTIONS
)
_ONLY = flags.DEFINE_list("only", [], "faults, by name; empty: all", flag_values=OPTIONS)
_SEED = flags.DEFINE_integer("seed", 0, "of the moments", flag_values=OPTIONS)
_OUT = flags.DEFINE_string(
    "out", str(RESULTS / "faults.json"), "where the table goes", flag_values=OPTIONS
)


def cases(bench: Bench) -> Iterator[tuple[str, str, Callable]]:
    """(fault, case, function that does it): all that is to be counted."""
    kinds = list(KINDS)
    for number, kind in enumerate(kinds):
        share = _KILLS.value * (number + 1) // len(kinds) - _KILLS.value * number // len(kinds)
        if share:
            yield "killed", kind, lambda k=kind, n=share: list(killed(bench, k, n))
    for fault, functions in ONCE.items():
        for number, function in enumerate(functions * _REPEATS.value):
            yield fault, str(number), lambda f=function: f(bench)
    for kind in kinds:
        for signal_ in EXIT_CODES:
            run = lambda k=kind, s=signal_: told_to_stop(bench, k, s)  # noqa: E731
            yield "told to stop", f"{kind}, {signal_.name}", run


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


def main(argv: list[str]) -> None:
    del argv
    # Or what is started in the background or under nohup were deaf to them.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if unknown := set(_ONLY.value) - set(PROMISES):
        raise UserError(f"There is no fault {', '.join(unknown)}; there are {', '.join(PROMISES)}.")
    path = Path(_OUT.value)
    result = provenance(in_child=True) | {"kills": _KILLS.value, "seed": _SEED.value, "faults": {}}
    if path.exists():
        before = json.loads(path.read_text())
        if all(before[key] == result[key] for key in ("commit", "kills", "seed")):
            result["faults"] = before["faults"]
    with tempfile.TemporaryDirectory(prefix="faults_") as folder:
        Path(folder).chmod(0o755)
        bench = Bench(Path(folder), random.Random(_SEED.value))
        wanted = set(_ONLY.value or PROMISES)
        for fault, case, run in cases(bench):
            if fault in wanted:
                count(result, fault, case, run)
    if any(row["broken"] for row in result["faults"].values()):
        raise SystemExit(1)


if __name__ == "__main__":
    start(main, OPTIONS)
