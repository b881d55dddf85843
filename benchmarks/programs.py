"""What compilers say of every config's train step on hardware that is not here.

    pip install '.[tpu,cuda]'
    python -m benchmarks.programs                                  # hours; goes on where it stopped
    python -m benchmarks.programs --only='dino_vits.* v5e:4x4'     # rows that match
    python -m benchmarks.programs --only='dino_vits.* v5e:4x4' --again

A row is a config, without RePre or with it, its devices and its batch. Nothing runs: memory and
traffic are the compiler's, the time is what the data sheet allows for them. Writes
``results/programs.json`` after every row; a row that stands there is made again with ``--again``.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
from absl import flags

from benchmarks.options import start
from benchmarks.provenance import RESULTS, provenance, save_result
from repre_jax.config_files import carried, read_config
from repre_jax.errors import UserError
from repre_jax.training.accelerators import open_topology
from repre_jax.training.ahead_of_time import Program, compile_for

OPTIONS = flags.FlagValues()
_ONLY = flags.DEFINE_string(
    "only", "", "regular expression of the rows to make", flag_values=OPTIONS
)

_AGAIN = flags.DEFINE_bool("again", False, "make rows that stand there, too", flag_values=OPTIONS)

HARDWARE = ("v5e:4x8", "v5p:2x4x4", "h100:8", "h200:8")
TRAINING_IMAGES = 1_281_167  # ImageNet's; it only sets the length of the schedules


class Row(NamedTuple):
    """A program: config with variants, target, and what else differs from the config.

    Attributes:
      batch_size: images a step; None for the config's.
      remat: ``model.remat``.
      shard_state: ``train.shard_state``.
      float32_residual: ``model.float32_residual``.
      effort: JAX_EXEC_TIME_OPTIMIZATION_EFFORT; at -0.5 a TPU's compiler takes less than half the
        time and makes a program that moves more.
    """

    config: str
    target: str
    batch_size: int | None = None
    remat: str = "none"
    shard_state: bool = False
    float32_residual: bool = False
    effort: float = 0.0

    @property
    def name(self) -> str:
        """By which the result has it: "dino_vits:baseline v5e:4x8 1024 remat=block sharded"."""
        parts = [self.config, self.target, f"{self.batch_size or 'recipe'}"]
        parts += [f"remat={self.remat}"] if self.remat != "none" else []
        parts += ["sharded"] if self.shard_state else []
        parts += ["float32_residual"] if self.float32_residual else []
        parts += [f"effort={self.effort}"] if self.effort else []
        return " ".join(parts)


# Compiled in a minute, so that a test can ask whether they are still what they were.
SMALL = [
    Row(config, target)
    for config in ("quickstart", "moco_v3_vits:smoke")
    for target in ("v5e:2x2", "h100:1")
]
FIRST = [
    ("moco_v3_vits", "h100:1", 128),  # these four are those that device_day measures
    ("dino_vits", "h100:1", 128),
    ("moco_v3_vits", "h200:1", 128),
    ("dino_vits", "h200:1", 128),
    ("moco_v3_vits", "v5e:4x4", None, "attention"),
    ("moco_v3_vits", "v5e:4x4", None),
    ("moco_v3_vits", "v5e:4x8", None),
    ("dino_vits", "v5e:4x4", None),
]
# What a pod is rented for, and the recipe that 16 chips have to be made to fit: in minutes each.
QUICK = [
    Row(config, target, remat=remat, effort=-0.5)
    for config, target, remat in [
        ("moco_v3_vits", "v5e:4x4", "none"),
        ("moco_v3_vits", "v5e:4x4", "attention"),
        ("moco_v3_vits", "v5e:4x4", "block"),
        ("dino_vits", "v5e:4x4", "none"),
        ("moco_v3_vitb", "v5e:8x8", "none"),
        ("moco_v3_vitb", "v5e:8x8", "attention"),
        ("mae_vitl", "v5p:4x4x4", "none"),
    ]
]
# Windows of a Swin and relative positions, which add something to the logits.
BIASED = [
    Row(config, target, devices * batch_size, effort=effort)
    for config, batch_size in [("moby_swint:baseline", 64), ("lomar_vits", 128)]
    for target, devices, effort in [("h100:1", 1, 0.0), ("v5e:2x2", 4, -0.5)]
]
# Whole on every device, and a share on each; few images, for the state's bytes are the question.
SHARED = [
    Row(config, target, batch_size, shard_state=shard_state, effort=-0.5)
    for config, target, batch_size in [
        ("mae_vitl", "v5e:2x4", 256),
        ("mae_vitl", "h100:8", 256),
        ("dino_vits:baseline", "v5e:2x4", 128),
    ]
    for shard_state in (False, True)
]


def rows() -> list[Row]:
    """Every row, the most wanted first."""
    configs = [name for name in carried() if "batch_size" in read_config(name).get("train", {})]
    configs = [name for name in configs if read_config(name).task == "pretrain"]
    every = [(config, target) for config in configs for target in HARDWARE]
    precise = Row("moco_v3_vits", "h100:1", 128, float32_residual=True)
    found = [
        *SMALL,
        *_beside_baseline(FIRST),
        precise,
        *QUICK,
        *SHARED,
        *BIASED,
        *_beside_baseline(every),
    ]
    return list(dict.fromkeys(found))


def _beside_baseline(wanted: Sequence[tuple[Any, ...]]) -> Iterator[Row]:
    for config, *rest in wanted:
        yield Row(config, *rest)
        if read_config(config).repre.enabled:
            yield Row(f"{config}:baseline", *rest)


def compile_row(row: Row) -> dict[str, Any]:
    """What the result file has of a row."""
    config = read_config(row.config)
    config.train.batch_size = row.batch_size or config.train.batch_size
    config.train.shard_state = row.shard_state
    config.model.remat = row.remat
    config.model.float32_residual = row.float32_residual
    topology = open_topology(row.target)
    jax.config.update("jax_exec_time_optimization_effort", row.effort)
    program = compile_for(config, topology, images=TRAINING_IMAGES)
    return provenance(device=False) | described(program)


def described(program: Program) -> dict[str, Any]:
    """A program for the result file."""
    found = program._asdict() | {"wanted": program.wanted, "fits": program.fits}
    if program.bytes is None:
        return found
    return found | {
        "collectives": [collective._asdict() for collective in program.collectives],
        "seconds": program.seconds,
        "images_per_second": program.images_per_second,
    }


def table(made: dict[str, dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| program | images a device | GiB wanted of there | temporaries | TFLOP | GB moved | "
        "ms, bytes / operations | images/s at most | exchanged, MiB | compiled in | commit |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in made.items():
        cells = [
            name,
            f"{row['batch_size'] // row['devices']}",
            f"{_gib(row['wanted'])} of {_gib(row['available'])}{'' if row['fits'] else ', no'}",
            _gib(row["memory"]["temporaries"]),
            f"{row['operations'] / 1e12:.3g}",
        ]
        if row["bytes"] is None:
            cells += ["refused", "", "", ""]
        else:
            exchanged = sum(c["bytes"] for c in row["collectives"]) / 2**20
            cells += [
                f"{row['bytes'] / 1e9:.3g}",
                f"{_ms(row['byte_seconds'])} / {_ms(row['operation_seconds'])}",
                f"{row['images_per_second']:,.0f}",
                f"{exchanged:.3g}",
            ]
        cells += [f"{row['compile_seconds']:.0f} s", row["commit"][:7]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    del argv
    path = RESULTS / "programs.json"
    made = json.loads(path.read_text()) if path.exists() else {}
    wanted = [row for row in rows() if re.search(_ONLY.value, row.name)]
    if not wanted:
        raise UserError(f"--only={_ONLY.value} matches no row.")
    for row in wanted:
        if row.name in made and not _AGAIN.value:
            continue
        try:
            made[row.name] = compile_row(row)
        except UserError as error:
            print(f"{row.name}: {error}")
            continue
        save_result("programs", made)
        print(table({row.name: made[row.name]}).splitlines()[-1], flush=True)
    print(table(made))


def _gib(size: int) -> str:
    return f"{size / 2**30:.3g}"


def _ms(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds * 1e3:.3g}"


if __name__ == "__main__":
    start(main, OPTIONS)
