"""The command line.

    python main.py --config=configs/dino_vits.py --workdir=runs/a --config.train.batch_size=256
    python main.py --config=configs/eval/knn.py --config.checkpoint=runs/a

Variants of a config follow a colon (``configs/dino_vits.py:baseline,smoke``); ``--explain`` prints
what a run would be and trains nothing. Running the same command again resumes. A mistake that the
user can mend ends with one sentence and exit code 2.
"""

import difflib
import sys
from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from repre_jax.errors import UserError
from repre_jax.evaluate import evaluate
from repre_jax.evaluation import TASKS as MEASURES
from repre_jax.pretrain import pretrain
from repre_jax.table import tabulate
from repre_jax.training.explain import explain, flat_keys

TASKS = {"pretrain": pretrain} | dict.fromkeys(MEASURES, evaluate) | {"table": tabulate}

FLAGS = flags.FLAGS
CONFIG_HELP = "Config file, with variants after a colon: configs/dino_vits.py:baseline,smoke."
config_flags.DEFINE_config_file("config", None, CONFIG_HELP, lock_config=True)
flags.DEFINE_string(
    "workdir",
    "",
    "Run folder; default: runs/<name of config and variants>, or <checkpoint>/eval/...",
)
flags.DEFINE_bool("explain", False, "Print what the run would be, and train nothing.")
flags.DEFINE_bool("distributed", False, "Join the other machines (jax.distributed.initialize).")


def main(argv: list[str]) -> int:
    """Runs what ``argv`` asks for and returns the exit code."""
    try:
        config = parse(argv)
        if config is None:
            print(__doc__, FLAGS.main_module_help(), sep="\n")
            return 0
        if FLAGS.explain:
            if config.task != "pretrain":
                raise UserError(f"--explain is for pre-training, not for task {config.task}.")
            print(explain(config, FLAGS["config"].config_filename))
            return 0
        if FLAGS.distributed:
            jax.distributed.initialize()
        TASKS[config.task](config, Path(config.workdir) if config.workdir else None)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def parse(argv: list[str]) -> ConfigDict | None:
    """The config with the command line's overrides and its workdir; None for --help.

    Raises:
      UserError: no config, no such file, no such key, or a value of the wrong kind.
    """
    if any(argument in ("-h", "--help", "--helpfull", "--helpshort") for argument in argv[1:]):
        FLAGS.mark_as_parsed()
        return None
    check_keys(argv)
    try:
        rest = FLAGS(argv)
    except (flags.Error, TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(str(error).strip().splitlines()[-1]) from error
    if len(rest) > 1:
        raise UserError(f"{rest[1]!r} is not a flag; keys are set as --config.<key>=<value>.")
    config = FLAGS.config
    if config.task not in TASKS:
        raise UserError(f"task={config.task!r} must be one of {', '.join(TASKS)}.")
    if FLAGS.workdir:
        config.workdir = FLAGS.workdir
    elif not config.workdir and config.task == "pretrain":  # evaluations know a better place
        name, _, variants = FLAGS["config"].config_filename.partition(":")
        parts = [Path(name).stem, *filter(None, variants.split(","))]
        config.workdir = str(Path("runs") / "-".join(parts))
    return config


def check_keys(argv: list[str]) -> None:
    """Raises UserError when there is no such config file, or no such key in it."""
    paths = [a.split("=", 1)[1] for a in argv[1:] if a.startswith(("--config=", "-config="))]
    if not paths:
        raise UserError("No config given; for example --config=configs/quickstart.py.")
    file = paths[-1].split(":", 1)[0]
    if not Path(file).is_file():
        near = difflib.get_close_matches(file, map(str, Path("configs").rglob("*.py")), n=1)
        hint = f"; did you mean {near[0]}?" if near else "; look in configs/."
        raise UserError(f"There is no config file {file}{hint}")
    keys = flat_keys(FLAGS["config"].parser.parse(paths[-1]))
    for argument in argv[1:]:
        name = argument.lstrip("-").split("=", 1)[0]
        if argument.startswith("-") and name.startswith(("config.", "noconfig.")):
            key = name.split(".", 1)[1]
            if key not in keys:
                near = difflib.get_close_matches(key, keys, n=1, cutoff=0.3)
                hint = f"; the nearest key is {near[0]}." if near else "."
                raise UserError(f"There is no config key {key}{hint}")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
