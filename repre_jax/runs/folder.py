"""The folder of one run: whose it is, what is in it, whether it is finished.

config.json     the resolved config that made the run
metrics.jsonl   one JSON object per log step
summary.json    final metrics, written when the run is finished
images.json     which images it was made from (runs/images.py)
bad_files.txt   images that could not be read, and why
starts.jsonl    one JSON object per process that trained: command, versions, devices, changed keys
report.html     the run as a page (visualize/report), of a finished run or one asked for
tensorboard/ checkpoints/ figures/ trackers/ profile/
"""

import contextlib
import glob
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from filelock import FileLock, Timeout
from flax.traverse_util import flatten_dict

from repre_jax.errors import UserError
from repre_jax.rematerialisation import level_of
from repre_jax.runs.disk_errors import disk_trouble, disk_trouble_told

_SHOWN_DIFFERENCES = 8
_CONFIG = "config.json"
STARTS = "starts.jsonl"
_LOCK = ".lock"
_LOCK_PATIENCE_SECONDS = 2.0  # a killed run may take a moment to let go


class Change(NamedTuple):
    """A setting that is another one than before, both as JSON; as text "key: old -> new"."""

    key: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.key}: {self.old} -> {self.new}"


class RunFolder:
    """Opens a run's folder for one run at a time, new or to be resumed.

    In a run of several processes only the primary one locks and writes; the others know the paths.

    Attributes:
      config: of the run, as given.
      changes: of the keys of ``told`` in which the run's config, from ``write_config`` on this
        one, was another one before.
      path, config_path, metrics_path, summary_path, bad_files_path: where things lie.
      tensorboard, checkpoints, figures: folders.
    """

    def __init__(
        self,
        path: Path,
        config: Mapping[str, Any],
        *,
        ignore: tuple[str, ...] = (),
        told: tuple[str, ...] = (),
        defaults: Mapping[str, Any] | None = None,
        primary: bool = True,
    ):
        """Makes the folder, or checks that it belongs to the same run, and locks it.

        It is another run's from ``write_config`` on.

        Args:
          path: of the folder.
          config: resolved config as a nested dictionary of JSON values.
          ignore: dotted keys, or their leading parts, that may differ when a run is resumed
            because they do not change what is trained.
          told: the same of keys whose difference the user should know of.
          defaults: config of which an older run has what its own lacks.
          primary: whether this process writes.

        Raises:
          UserError: the folder cannot be written, is in use, or holds a run of another config.
        """
        self.path = Path(path).absolute()
        self.config_path = self.path / _CONFIG
        self.metrics_path = self.path / "metrics.jsonl"
        self.summary_path = self.path / "summary.json"
        self.bad_files_path = self.path / "bad_files.txt"
        self.tensorboard = self.path / "tensorboard"
        self.checkpoints = self.path / "checkpoints"
        self.figures = self.path / "figures"
        self.config = config
        self.changes: list[Change] = []
        self._lock: FileLock | None = None
        if not primary:
            return
        with disk_trouble_told(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.path)
        try:
            old = saved_config(self.path)
            if old is not None:
                old = filled(old, defaults or {})
                _check_same_run(self.path, old, config, (*ignore, *told))
                self.changes = config_differences(old, config, of=told)
        except BaseException:
            self.close()
            raise

    @property
    def summary(self) -> dict[str, Any] | None:
        """What the finished run wrote; None while it is not finished."""
        try:
            summary = json.loads(self.summary_path.read_text())
        except (OSError, ValueError):
            return None
        return summary if isinstance(summary, dict) and summary.get("finished") else None

    def write_config(self) -> None:
        """Makes the folder this run's, once what lies in it is known to be."""
        write_json(self.config_path, self.config)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Marks the run as finished."""
        write_json(self.summary_path, {**summary, "finished": True})

    def close(self) -> None:
        """Lets another process use the folder, as the end of this object or process does."""
        if self._lock is not None:
            self._lock.release()


def find_runs(patterns: str, *, wanted: Callable[[Path], bool], words: str) -> list[Path]:
    """Paths that match one of the patterns, which commas, and spaces beside them, separate.

    Args:
      patterns: "runs/a, runs/b*".
      wanted: whether a path is one that counts.
      words: what those are, for the error.

    Raises:
      UserError: one of the patterns matches none.
    """
    given = [os.path.expanduser(pattern.strip()) for pattern in patterns.split(",")]
    matched = {
        pattern: list(filter(wanted, map(Path, sorted(glob.glob(pattern)))))
        for pattern in filter(None, given)
    } or {"": []}
    lost = [pattern for pattern, paths in matched.items() if not paths]
    if lost:
        raise UserError(
            f"runs={', '.join(lost)!r} matches {words}; for example --config.runs='runs/*'."
        )
    return list(dict.fromkeys(path for paths in matched.values() for path in paths))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON file whole or not at all.

    Raises:
      UserError: disk full or no permission.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all.

    Raises:
      UserError: disk full or no permission.
    """
    with written_whole(path) as unfinished, open(unfinished, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path to write to, whose file takes the place of ``path`` at the end, or not at all.

    Raises:
      UserError: disk full or no permission.
    """
    unfinished = path.with_name(path.name + ".tmp")
    with disk_trouble_told(path):
        yield unfinished
        os.replace(unfinished, path)


def saved_config(folder: Path) -> dict[str, Any] | None:
    """The config of the run in ``folder``, None where there is none.

    Raises:
      UserError: it cannot be read.
    """
    path = folder / _CONFIG
    try:
        return of_today(dict(json.loads(path.read_text())), folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}), so it is not known which run lies there; "
            "bring it back from a copy or choose another --workdir."
        ) from error


def of_today(saved: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The config saved in ``folder``, changed where an older version wrote it in another way."""
    model, train = saved.get("model"), saved.get("train")
    if isinstance(model, dict) and "remat" in model:
        model["remat"] = level_of(model["remat"])
    if isinstance(train, dict) and train.get("compute_dtype") == "auto":
        train["compute_dtype"] = "float32" if _was_on_cpu(folder) else "bfloat16"
    return saved


def _was_on_cpu(folder: Path) -> bool:
    """Whether the newest start of a run was on a CPU; of runs that note none, whether this is."""
    try:
        newest = (folder / STARTS).read_text().splitlines()[-1]
        return json.loads(newest)["devices"].endswith("cpu")
    except (OSError, IndexError, ValueError, KeyError, TypeError):
        return jax.default_backend() == "cpu"


def filled(saved: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """``saved`` with the keys that it lacks, at every depth, from ``usual``."""
    merged = dict(usual) | dict(saved)
    for key, value in saved.items():
        if isinstance(value, Mapping) and isinstance(usual.get(key), Mapping):
            merged[key] = filled(value, usual[key])
    return merged


def config_differences(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    ignore: tuple[str, ...] = (),
    of: tuple[str, ...] | None = None,
) -> list[Change]:
    """The dotted keys in which two nested configs differ.

    Args:
      old: nested dictionary of JSON values.
      new: the same.
      ignore: dotted keys, or their leading parts, that may differ.
      of: dotted keys, or their leading parts, that are compared; None for all.
    """
    # A tuple and the list that JSON made of it are the same setting.
    old, new = (
        flatten_dict(json.loads(json.dumps(config)), keep_empty_nodes=True, sep=".")
        for config in (old, new)
    )
    keys = [
        key
        for key in sorted(old.keys() | new.keys())
        if not _is_among(key, ignore) and (of is None or _is_among(key, of))
    ]
    return [
        Change(key, _shown(old, key), _shown(new, key))
        for key in keys
        if _shown(old, key) != _shown(new, key)
    ]


def _is_among(key: str, parts: tuple[str, ...]) -> bool:
    return any(key == part or key.startswith(part + ".") for part in parts)


def _check_same_run(
    folder: Path,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    may_differ: tuple[str, ...],
) -> None:
    differences = config_differences(old, new, may_differ)
    if differences:
        more = len(differences) - _SHOWN_DIFFERENCES
        shown = "; ".join(map(str, differences[:_SHOWN_DIFFERENCES])) + (
            f"; and {more} more" * (more > 0)
        )
        raise UserError(
            f"{folder} holds a run of another config ({shown}): choose another --workdir, or "
            "repeat the old settings to resume that run."
        )


def _shown(flat: Mapping[str, Any], key: str) -> str:
    # The default is for flax's empty node, which stands for an empty section.
    return json.dumps(flat[key], default=lambda _: {}) if key in flat else "absent"


def _lock(folder: Path) -> FileLock:
    """A lock that the system drops when the process ends, however it ends."""
    lock = FileLock(folder / _LOCK, timeout=_LOCK_PATIENCE_SECONDS, on_acquired=_sign)
    try:
        lock.acquire()
    except Timeout as error:
        holder = (folder / _LOCK).read_text(errors="replace").strip()
        raise UserError(
            f"Another process ({holder or 'unknown'}) is training in {folder}: wait for it, "
            "stop it, or choose another --workdir."
        ) from error
    except OSError as error:
        if disk_trouble(error):
            raise
        # Some network file systems have no locks: the run goes on without one.
    return lock


def _sign(descriptor: int) -> None:
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
