"""What pre-training runs are worth by every protocol, beside the encoder before training.

    python -m benchmarks.evaluation --data=/data/imagenette160 \
        --checkpoints=dino=runs/imagenette/dino-baseline,dino+repre=runs/imagenette/dino-learned
    python -m benchmarks.evaluation --checkpoints=... --tasks=knn,finetune --seeds=1
    python -m benchmarks.evaluation --checkpoints=... --finetune_flags=--config.recipe.epochs=30
    python -m benchmarks.evaluation --checkpoints=moco_v3=runs/a --rows=random:moco_v3

Rows are the checkpoints by the names given, and before them "random:<name>", the encoder of that
one, and of all that began as the same, before training: its fine-tuning is their training from
scratch with the same budget. Columns are k-NN, linear probe by the method's own protocol, few
labels, and fine-tuning; heads and fine-tunings have several seeds. Every cell is an evaluation by
main.py under ``--runs``: run this again and finished ones are reused, unfinished ones go on.
``--out`` is written after every cell.
"""

import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks.options import start
from benchmarks.provenance import RESULTS, provenance, write_result
from repre_jax.errors import UserError
from repre_jax.evaluation.checkpoint import open_pretrained

RANDOM = "random"
TASKS = ("knn", "linear", "few_label", "finetune")
# Fine-tuning for minutes on 10,000 small images: MoCo v3's recipe, shorter, warmer, less mixed.
SMALL_BUDGET = (
    "--config.protocol=moco_v3",
    "--config.recipe.epochs=5",
    "--config.recipe.batch_size=64",
    "--config.recipe.schedule=moco_v3",
    "--config.recipe.learning_rate=2e-3",
    "--config.recipe.warmup_epochs=1",
    "--config.recipe.mix_probability=0.5",
    "--config.recipe.drop_path=0.0",
    "--config.recipe.average_decay=0.99",
    "--config.validate_every_epochs=5",
)

OPTIONS = flags.FlagValues()
_CHECKPOINTS = flags.DEFINE_list(
    "checkpoints", None, "<name>=<run folder>, ...", required=True, flag_values=OPTIONS
)
_DATA = flags.DEFINE_string(
    "data", "", "folder of images; empty: that of each run", flag_values=OPTIONS
)
_ROWS = flags.DEFINE_list("rows", [], "of the table; empty: all", flag_values=OPTIONS)
_TASKS = flags.DEFINE_list("tasks", list(TASKS), "columns", flag_values=OPTIONS)
_SEEDS = flags.DEFINE_integer("seeds", 3, "of heads and of fine-tunings", flag_values=OPTIONS)
_RUNS = flags.DEFINE_string(
    "runs", "runs/evaluation", "where the evaluations are", flag_values=OPTIONS
)
_OUT = flags.DEFINE_string(
    "out", str(RESULTS / "evaluation.json"), "where the numbers go", flag_values=OPTIONS
)
_FLAGS = {
    task: flags.DEFINE_list(
        f"{task}_flags",
        list(SMALL_BUDGET) if task == "finetune" else [],
        f"main.py's flags for {task}",
        flag_values=OPTIONS,
    )
    for task in TASKS
}


def checkpoints(given: Sequence[str]) -> dict[str, str]:
    """{name: run folder}.

    Raises:
      UserError: something else than name=folder, or a name twice.
    """
    runs = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder) or name in runs:
            raise UserError(f"--checkpoints takes <name>=<run folder>, names once; not {text!r}.")
        runs[name] = folder
    return runs


def beginnings(runs: Mapping[str, str]) -> dict[str, str]:
    """{name: row of its encoder before training}; runs that began as the same share one."""
    first, rows = {}, {}
    for name, folder in runs.items():
        begun_as = open_pretrained(folder, weights=RANDOM).fingerprint
        rows[name] = f"{RANDOM}:{first.setdefault(begun_as, name)}"
    return rows


def rows_of(runs: Mapping[str, str], untrained: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """{row: (run folder, weights)}, the encoders before training, of ``beginnings``, in front."""
    rows = {row: (runs[row.removeprefix(f"{RANDOM}:")], RANDOM) for row in untrained.values()}
    return rows | {name: (folder, "auto") for name, folder in runs.items()}


def cell_commands(row: str, checkpoint: str, weights: str, task: str) -> dict[Path, list[str]]:
    """{folder: main.py's flags} of the evaluations that a cell consists of.

    Linear probes train their seeds as heads of one run, and few labels are drawn several times.
    """
    shared = [
        f"--config=configs/eval/{task}.py",
        f"--config.checkpoint={checkpoint}",
        f"--config.weights={weights}",
    ]
    if _DATA.value:
        shared += ["--config.data.source=folder", f"--config.data.path={_DATA.value}"]
    if task == "linear":
        shared.append(f"--config.seeds={_SEEDS.value}")
    shared += _FLAGS[task].value
    seeds = range(_SEEDS.value) if task == "finetune" else (0,)
    name = row.replace(":", "-")
    folders = {seed: Path(_RUNS.value) / f"{name}-{task}-{seed}" for seed in seeds}
    features = f"--config.cache_path={Path(_RUNS.value) / 'features'}"
    return {
        folder: [*shared, f"--config.seed={seed}", features, f"--workdir={folder}"]
        for seed, folder in folders.items()
    }


def measure_cell(row: str, checkpoint: str, weights: str, task: str) -> dict[str, Any]:
    """Runs what is not finished of a cell and returns its numbers.

    Raises:
      UserError: main.py did not end well; it has said why.
    """
    results, commands = [], []
    for folder, arguments in cell_commands(row, checkpoint, weights, task).items():
        # A finished evaluation says so and ends; one of other settings is refused.
        if subprocess.run([sys.executable, "main.py", *arguments]).returncode:
            raise UserError(f"{row} {task} did not finish; this command goes on where it stopped.")
        path = folder / "results.json"
        if not path.exists():  # stopped by a signal
            raise UserError(f"{row} {task} was stopped; this command goes on from there.")
        results.append(json.loads(path.read_text()))
        commands.append(shlex.join(["python", "main.py", *arguments]))
    values = [result["value"] for result in results]
    # Several seeds in one run say their spread themselves.
    spread = statistics.stdev(values) if len(values) > 1 else results[0].get("spread")
    return {
        "value": statistics.fmean(values),
        "spread": spread,
        "values": values,
        "protocol": results[0]["protocol"],
        "formula": results[0]["formula"],
        "weights": results[0]["weights"],
        "step": results[0]["step"],
        "commit": sorted({result["commit"] or "unknown" for result in results}),
        "wall_seconds": round(sum(result["wall_seconds"] for result in results), 1),
        "metrics": [result["metrics"] for result in results],
        "commands": commands,
    }


def table(rows: dict[str, Any], untrained: Mapping[str, str]) -> str:
    """The result for the screen: accuracy +- spread over seeds, and what fine-tuning gains.

    Args:
      rows: {row: {task: cell}}.
      untrained: of ``beginnings``.
    """
    width = max(map(len, rows)) + 2
    lines = [f"{'':<{width}}" + "".join(f"{task:>18}" for task in TASKS) + f"{'minutes':>10}"]
    for name, cells in rows.items():
        shown = [f"{shown_cell(cells.get(task)):>18}" for task in TASKS]
        minutes = sum(cell["wall_seconds"] for cell in cells.values()) / 60
        lines.append(f"{name:<{width}}{''.join(shown)}{minutes:>10.1f}")
    for name, beginning in untrained.items():
        trained, scratch = (rows.get(row, {}).get("finetune") for row in (name, beginning))
        if trained and scratch:
            gain = 100 * (trained["value"] - scratch["value"])
            lines.append(f"{name}: fine-tuned {gain:+.1f} points over from scratch")
    return "\n".join(lines)


def shown_cell(cell: dict[str, Any] | None) -> str:
    """ "71.2 % +- 0.3", or less where there is less."""
    if cell is None:
        return ""
    spread = "" if cell["spread"] is None else f" +- {100 * cell['spread']:.1f}"
    return f"{100 * cell['value']:.1f} %{spread}"


def main(argv: list[str]) -> None:
    """Fills the table cell by cell."""
    if argv[1:]:
        raise app.UsageError(f"{argv[1]!r} is not an option; --help names them.")
    if not set(_TASKS.value) <= set(TASKS):
        raise app.UsageError(f"--tasks takes {', '.join(TASKS)}")
    runs = checkpoints(_CHECKPOINTS.value)
    untrained = beginnings(runs)
    wanted = rows_of(runs, untrained)
    if not set(_ROWS.value) <= set(wanted):
        raise app.UsageError(f"--rows takes {', '.join(wanted)}")
    wanted = {row: wanted[row] for row in _ROWS.value or wanted}
    out = Path(_OUT.value)
    rows = json.loads(out.read_text())["rows"] if out.exists() else {}
    result = provenance(in_child=True) | {"seeds": _SEEDS.value, "rows": rows}
    for task in _TASKS.value:
        for row, (checkpoint, weights) in wanted.items():
            cell = measure_cell(row, checkpoint, weights, task)
            rows.setdefault(row, {})[task] = cell
            write_result(out, result)
    print(table(rows, untrained))
    print(f"Written to {out}")


if __name__ == "__main__":
    start(main, OPTIONS)
