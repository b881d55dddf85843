"""What a second start saves with the compiled programs that the first one kept.

    python -m benchmarks.second_start

Two steps of the quickstart, with k-NN, pictures and report, and of DINO + RePre on ViT-S/16 at 224
pixels, on handwritten digits: each twice, with a folder of programs that is empty at first. Seconds
are those of the whole command. Writes ``results/second_start.json``.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks.options import start
from benchmarks.provenance import provenance, save_result
from repre_jax.errors import UserError

OPTIONS = flags.FlagValues()
COMMANDS = {
    "quickstart": ("--config=configs/quickstart.py", "--config.train.steps=2"),
    "dino_vits": (
        "--config=configs/dino_vits.py",
        "--config.data.source=digits",
        "--config.data.labels=none",
        "--config.train.batch_size=4",
        "--config.train.steps=2",
    ),
}


def measure(arguments: tuple[str, ...]) -> dict[str, Any]:
    """{"seconds": of the first and of the second start, "same_parameters"}."""
    seconds, parameters = [], set()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(root / "programs")}
        for number in ("first", "second"):
            command = [sys.executable, "main.py", *arguments, f"--workdir={root / number}"]
            began = time.perf_counter()
            if subprocess.run(command, env=environment, stdout=subprocess.DEVNULL).returncode:
                raise UserError(f"{' '.join(command)} did not end well.")
            seconds.append(round(time.perf_counter() - began, 1))
            summary = json.loads((root / number / "summary.json").read_text())
            parameters.add(summary["params_sha256"])
    return {"seconds": seconds, "same_parameters": len(parameters) == 1}


def main(argv: list[str]) -> None:
    del argv
    result = provenance(in_child=True)
    result["rows"] = {name: measure(arguments) for name, arguments in COMMANDS.items()}
    for name, row in result["rows"].items():
        print(f"{name}: {row['seconds'][0]} s, then {row['seconds'][1]} s")
    print(f"Written to {save_result('second_start', result)}")


if __name__ == "__main__":
    start(main, OPTIONS)
