"""The command line.

    repre-jax --config=dino_vits --workdir=runs/a --config.train.batch_size=256
    repre-jax --config=eval/knn --config.checkpoint=runs/a
    repre-jax --config=look --config.checkpoint=runs/a,runs/b

In a checkout ``python main.py`` is the same command. A config is a file, by its path
(``configs/dino_vits.py``), or one that the package carries, by its name. Its variants follow a
colon (``dino_vits:baseline,smoke``); ``--explain`` prints what a run would be and trains nothing.
Running the same command again resumes. A mistake that the user can mend ends with one sentence and
exit code 2.
"""

import difflib
import os
import re
import signal
import sys
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from repre_jax import machines
from repre_jax.compilation_cache import keep_compiled_programs
from repre_jax.config_files import carried, locate, read_config
from repre_jax.data.sources import check_read, short_name
from repre_jax.data.workers import WorkerKilled, exit_without_them
from repre_jax.errors import UserError
from repre_jax.evaluate import evaluate
from repre_jax.evaluation import TASKS as EVALUATIONS
from repre_jax.explain_finetuning import explain_finetuning
from repre_jax.export_weights import export_weights
from repre_jax.import_weights import import_weights
from repre_jax.look import look
from repre_jax.patch_clusters import cluster_patches
from repre_jax.pretrain import pretrain
from repre_jax.rematerialisation import level_of
from repre_jax.replay import replay
from repre_jax.report import report
from repre_jax.runs.interruption import Stopped, end_at_once_on_ctrl_c
from repre_jax.table import tabulate
from repre_jax.terminal import outlive_terminal
from repre_jax.training.accelerators import open_topology
from repre_jax.training.explain import explain, flat_keys

TASKS = {"pretrain": pretrain} | dict.fromkeys(EVALUATIONS, evaluate)
TASKS |= {"table": tabulate, "look": look, "report": report}
TASKS |= {"import": import_weights, "export": export_weights}
TASKS |= {"patch_clusters": cluster_patches, "replay": replay}
_CONFIG_FLAGS = ("--config=", "-config=")
_PATHS = ("workdir", "cache_path", "runs", "step_file")  # those that their readers take as they are
_URLS = ("logging.mlflow",)  # keys that may be one


class Command(NamedTuple):
    """What a command line asks for.

    Attributes:
      config: with the overrides and its workdir.
      config_file: path of the config, with variants after a colon.
      explain: whether only to tell what a run would be.
      target: devices that are not here, to compile for; empty: none.
      join: arguments of ``machines.join``, to be called first; None for a process by itself.
    """

    config: ConfigDict
    config_file: str
    explain: bool
    target: str
    join: tuple[str, int | None, int | None] | None


def run() -> None:
    """The command as a process of its own: Ctrl-C and a terminal that goes away are its matter."""
    outlive_terminal()
    if _is_distributed(sys.argv) and not machines.is_watched():
        sys.exit(machines.run_watched())
    end_at_once_on_ctrl_c()
    trouble = keep_compiled_programs()
    if trouble:
        print(trouble, file=sys.stderr)
    if machines.is_watched():
        machines.run_as_child(main)
    code = main()
    if WorkerKilled.happened:
        exit_without_them(code)
    sys.exit(code)


def main(argv: list[str] | None = None) -> int:
    """Runs what ``argv``, by default that of the process, asks for and returns the exit code.

    It is 2 after a mistake that the user can mend, after a signal 128 more than its number, and 75
    where another process of the run was lost.
    """
    try:
        command = parse(sys.argv if argv is None else argv)
        if command is None:
            print(help_text())
            return 0
        config = command.config
        if command.explain:
            print(_explained(command))
            return 0
        if command.join:
            machines.join(*command.join)
        TASKS[config.task](config, Path(config.workdir) if config.workdir else None)
    except Stopped as stopped:
        success = stopped.signal == signal.SIGTERM and config.get("stopped_is_success")
        return 0 if success else stopped.exit_code
    except UserError as error:
        told = " ".join(str(error).split())  # one line, whichever library wrote a part of it
        print(f"error: {told}", file=sys.stderr)
        return 2
    except Exception as error:
        told = machines.lost(error)
        if not told:
            raise
        print(f"error: {told}", file=sys.stderr)
        return machines.PROCESS_LOST
    return 0


def _explained(command: Command) -> str:
    config = command.config
    if config.task not in ("pretrain", "finetune"):
        raise UserError(f"--explain is for training, not for task {config.task}.")
    absent = open_topology(command.target) if command.target else None
    if config.task == "finetune":
        return explain_finetuning(config, absent)
    return explain(config, command.config_file, absent)


def parse(argv: list[str]) -> Command | None:
    """What ``argv`` asks for; None for --help.

    Raises:
      UserError: no config, no such file, no such key, or a value of the wrong kind.
    """
    if any(argument in ("-h", "--help", "--helpfull", "--helpshort") for argument in argv[1:]):
        return None
    argv = [argv[0], *map(_with_path, _in_one_word(argv[1:]))]
    declared, given = _declared(argv)
    values = _flags(argv)
    try:
        rest = values(argv)
    except (flags.Error, TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(str(error).strip().splitlines()[-1]) from error
    flags.FLAGS.mark_as_parsed()  # libraries read their own there, which ``values`` has parsed
    if len(rest) > 1:
        raise UserError(f"{rest[1]!r} is not a flag; keys are set as --config.<key>=<value>.")
    config, config_file = values.config, values["config"].config_filename
    for key, value in [("--workdir", values.workdir), *flat_keys(config).items()]:
        _check_text(key, value)
    if config.get("task") not in TASKS:
        raise UserError(f"task={config.get('task')!r} must be one of {', '.join(TASKS)}.")
    if config.task != declared.task:
        raise UserError(
            f"task={config.task!r} does not fit {config_file}, which has the keys of another task: "
            "take a config of its own."
        )
    if values.target and not values.explain:
        raise UserError("--target compiles for devices that are not here: give --explain, too.")
    if config.task in ("pretrain", "import"):  # evaluations take their images from the run
        of_data = [key.removeprefix("data.") for key in given if key.startswith("data.")]
        _settle_data(config.data, config_file, of_data)
    config.workdir = values.workdir or config.workdir
    for key in _PATHS:
        if config.get(key):  # a shell leaves the ~ of --workdir=~/runs as it is
            config[key] = ",".join(map(os.path.expanduser, config[key].split(",")))
    if config.task == "pretrain":
        config.model.remat = level_of(config.model.remat)
        config.workdir = config.workdir or _default_workdir(config, config_file)
    return Command(config, config_file, values.explain, values.target, _joined(values))


def _joined(values: flags.FlagValues) -> tuple[str, int | None, int | None] | None:
    given = (values.coordinator, values.processes, values.process)
    if values.distributed:
        return given
    if given != ("", None, None):
        raise UserError("--coordinator, --processes and --process need --distributed, too.")
    return None


def _is_distributed(argv: list[str]) -> bool:
    return any(re.fullmatch(r"--?distributed(=.*)?", argument) for argument in argv)


def help_text() -> str:
    """What the command does, its flags, and the configs that the package carries."""
    evaluations = [name for name in carried() if "/" in name]
    trainings = [name for name in carried() if name not in evaluations]
    lists = [
        textwrap.fill(", ".join(names), 80, initial_indent="  ", subsequent_indent="  ")
        for names in (trainings, evaluations)
    ]
    parts = [__doc__, _flags([]).module_help(__name__).lstrip(), "\nConfigs of the package:"]
    return "\n".join([*parts, *lists])


def _flags(argv: list[str]) -> flags.FlagValues:
    """The flags of this command and those of the libraries; new ones in every call."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config",
        None,
        "Config file or name, with variants after a colon: dino_vits:baseline,smoke.",
        flag_values=values,
        sys_argv=argv,
    )
    flags.DEFINE_string(
        "workdir",
        "",
        "Run folder; default: runs/<config>-<variants>-<data>, or <checkpoint>/eval/...",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "explain", False, "Print what the run would be, and train nothing.", flag_values=values
    )
    flags.DEFINE_string(
        "target",
        "",
        "With --explain: compile the step for devices that are not here: v5e:4x8, h100:8, ...",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "distributed", False, "Join the other processes of the run.", flag_values=values
    )
    where = "With --distributed, where no cluster says it: "
    flags.DEFINE_string("coordinator", "", where + "host:port of process 0.", flag_values=values)
    flags.DEFINE_integer("processes", None, where + "how many there are.", flag_values=values)
    flags.DEFINE_integer("process", None, where + "which this is, from 0.", flag_values=values)
    values.append_flag_values(flags.FLAGS)
    return values


def _in_one_word(arguments: list[str]) -> list[str]:
    """With ``--config dino_vits`` as ``--config=dino_vits``."""
    joined: list[str] = []
    for argument in arguments:
        if joined and f"{joined[-1]}=" in _CONFIG_FLAGS and not argument.startswith("-"):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _with_path(argument: str) -> str:
    """``--config=<name>`` with the path of that config; other arguments as they are."""
    if not argument.startswith(_CONFIG_FLAGS):
        return argument
    flag, _, value = argument.partition("=")
    _check_text("--config", value)
    name, colon, variants = value.partition(":")
    return f"{flag}={locate(name)}{colon}{variants}"


def _settle_data(data: ConfigDict, config_file: str, given: list[str]) -> None:
    """Checks that the source reads the ``given`` keys; ``:smoke`` takes other images than digits.

    Raises:
      UserError: it does not.
    """
    if "source" not in given and {"path", "name"} & set(given):
        data.source = read_config(config_file.partition(":")[0]).data.source
    check_read(data, given)


def _default_workdir(config: ConfigDict, config_file: str) -> str:
    """``runs/dino_vits-baseline-imagenet2012``."""
    name, _, variants = config_file.partition(":")
    parts = [Path(name).stem, *variants.split(","), short_name(config.data)]
    return str(Path("runs") / "-".join(filter(None, parts)).replace("/", "-"))


def _check_text(key: str, value: Any) -> None:
    """Raises UserError for text that can be neither a name nor a path of this machine."""
    if not isinstance(value, str):
        return
    if "://" in value and key not in _URLS:  # a folder called "gs:" is not what was meant
        raise UserError(
            f"{key}={value} is a URL, and only folders of this machine are read and written: copy "
            "or mount what lies there, and give its path here."
        )
    if any(len(os.fsencode(part)) > 255 for part in value.split("/")):
        raise UserError(f"{key}={value[:80]!r}... cannot be a path: a name in it is too long.")
    if value.startswith("~") and os.path.expanduser(value) == value:
        raise UserError(f"{key}={value} begins with the home of a user that there is not.")


def _declared(argv: list[str]) -> tuple[ConfigDict, list[str]]:
    """(the config that ``argv`` names, before overrides; the keys that ``argv`` sets).

    Raises:
      UserError: no config, no such variant, or no such key.
    """
    paths = [a.split("=", 1)[1] for a in argv[1:] if a.startswith(_CONFIG_FLAGS)]
    if not paths:
        raise UserError("No config given; for example --config=quickstart.")
    config = read_config(paths[-1])
    if not isinstance(config, ConfigDict):
        raise UserError(f"{paths[-1]} is no config: its get_config returns no ConfigDict.")
    keys = flat_keys(config)
    given = []
    for argument in argv[1:]:
        name = argument.lstrip("-").split("=", 1)[0]
        if argument.startswith("-") and name.startswith(("config.", "noconfig.")):
            key = name.split(".", 1)[1]
            if key not in keys:
                near = difflib.get_close_matches(key, keys, n=1, cutoff=0.3)
                hint = f"; the nearest key is {near[0]}." if near else "."
                raise UserError(f"There is no config key {key}{hint}")
            given.append(key)
    return config, given
