"""One evaluation from top to bottom: checkpoint, images, features, metric, ``results.json``."""

import contextlib
import functools
import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from repre_jax.data.sources.source import Source
from repre_jax.data.sources.survey import in_words
from repre_jax.errors import UserError
from repre_jax.evaluation import TASKS
from repre_jax.evaluation.checkpoint import Pretrained, open_pretrained
from repre_jax.evaluation.frozen import FEATURES
from repre_jax.evaluation.images import check_as_seen, fill_in_data
from repre_jax.evaluation.task import Evaluation
from repre_jax.image_size import check_image_size, height_and_width, size_in_words
from repre_jax.ranges import check_ranges
from repre_jax.runs.commit import code_commit
from repre_jax.runs.destinations import read_rows
from repre_jax.runs.folder import RunFolder, write_json
from repre_jax.runs.memory_errors import memory_shortage_told
from repre_jax.sharding import make_mesh
from repre_jax.training.resolution import COMPUTE_DTYPES, compute_dtype


def evaluate(config: ConfigDict, workdir: Path | None) -> dict[str, Any]:
    """Measures what ``config.task`` names and returns what it wrote to ``results.json``.

    An evaluation that is finished is not repeated; one that was stopped goes on.

    Args:
      config: of ``configs/eval/``.
      workdir: folder of the evaluation; None for one in the run's ``eval/``, named after weights,
        step and a hash of all settings.

    Raises:
      Stopped: it was asked to, and has saved.
      UserError: whatever the user can mend.
    """
    started = time.monotonic()
    task = TASKS[config.task]
    config, pretrained, train, val = opened(config)
    settings = config.to_dict() | {
        "encoder": pretrained.fingerprint,
        "images": {"train": train.fingerprint, "val": val.fingerprint},
    }
    if task.fingerprint:
        settings["files"] = task.fingerprint(config, train.pixels)
    workdir = workdir or default_workdir(pretrained, settings)
    if config.get("cache_path") == "":
        config.cache_path = str(workdir.parent / "features")
    primary = jax.process_index() == 0
    mesh = make_mesh(config.devices, key="devices")
    new = [path for path in (workdir, *workdir.parents) if not path.exists()]
    with contextlib.ExitStack() as stack:
        folder = RunFolder(workdir, settings, ignore=task.free_to_change, primary=primary)
        stack.callback(folder.close)
        if primary:  # and nobody else: the folder is locked
            stack.enter_context(_removed_when_refused(workdir, new))
        results_path = folder.path / "results.json"
        if results_path.exists():
            results = json.loads(results_path.read_text())
        else:
            if primary:
                print(in_words(train, None if val is train else val))
            evaluation = Evaluation(config, pretrained, train, val, mesh, folder)
            results = _measured(evaluation, started)
            if primary:
                folder.write_config()
                write_json(results_path, results)
    if primary:
        print(f"{results['line']} ({results_path})")
    return results


def opened(config: ConfigDict) -> tuple[ConfigDict, Pretrained, Source, Source]:
    """(a copy of ``config`` with every default filled in, encoder, training and validation images).

    Raises:
      UserError: whatever the user can mend.
    """
    task = TASKS[config.task]
    check_ranges(config, task.ranges)
    config = config.copy_and_resolve_references()
    with config.unlocked():
        pretrained = open_encoder(config)
        if task.default_protocol:
            config.protocol = config.protocol or task.default_protocol(pretrained)
            _check_known(config, "protocol", task.protocols)
        if task.own_data:
            check_as_seen(pretrained.config.data)
        else:
            fill_in_data(config.data, pretrained.config.data)
        train, val = task.open(config.data, pretrained.encoder.channels)
    return config, pretrained, train, val


def _measured(evaluation: Evaluation, started: float) -> dict[str, Any]:
    """What ``results.json`` says; ``started`` is the monotonic time of the command's start."""
    task = TASKS[evaluation.config.task]
    with memory_shortage_told(task.less_memory):
        measured = task.measure(evaluation)
    wall_seconds = round(time.monotonic() - started, 2)
    results = _origin(evaluation) | {"wall_seconds": wall_seconds} | measured
    if evaluation.features_commits:
        results["features_commits"] = sorted(evaluation.features_commits)
    if evaluation.unreadable:
        results["unreadable"] = evaluation.unreadable
    return results


def default_workdir(pretrained: Pretrained, settings: dict[str, Any]) -> Path:
    """``<run>/eval/knn-target-1440-3fa2b1c0``, another one for what may give another value."""
    flat = json.loads(json.dumps(settings))
    for key in TASKS[settings["task"]].free_to_change:
        *sections, name = key.split(".")
        inner = functools.reduce(dict.__getitem__, sections, flat)
        inner.pop(name, None)
    digest = hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()[:8]
    name = f"{settings['task']}-{pretrained.weights}-{pretrained.step}-{digest}"
    return pretrained.run / "eval" / name


@contextlib.contextmanager
def _removed_when_refused(workdir: Path, new: list[Path]) -> Iterator[None]:
    """Removes the ``new`` folders when a mistake ends an evaluation that had not begun."""
    try:
        yield
    except UserError:
        begun = read_rows(workdir / "metrics.jsonl") or any(
            next(workdir.glob(kept), None) for kept in ("checkpoints/[0-9]*", "features-*-of-*")
        )
        if workdir in new and not begun:
            shutil.rmtree(workdir, ignore_errors=True)
            with contextlib.suppress(OSError):  # something else lies there: features, say
                for parent in new[1:]:
                    parent.rmdir()
        raise


def open_encoder(config: ConfigDict) -> Pretrained:
    """Opens the encoder of ``config.checkpoint``, and fills in what the config leaves to it.

    Raises:
      UserError: no such run, checkpoint, weights or feature, or images that do not fit.
    """
    if config.compute_dtype not in COMPUTE_DTYPES:
        raise UserError(f"compute_dtype must be one of {', '.join(COMPUTE_DTYPES)}.")
    dtype = compute_dtype(config.compute_dtype)
    pretrained = open_pretrained(
        config.checkpoint, step=config.step, weights=config.weights, compute_dtype=dtype
    )
    run = pretrained.config
    config.weights, config.step = pretrained.weights, pretrained.step
    config.compute_dtype = dtype.name
    config.image_size = config.image_size or run.model.image_size
    if "feature" in config:
        config.feature = config.feature or pretrained.defaults.feature
        _check_known(config, "feature", FEATURES)
    check_image_size(config.image_size, "image_size")
    multiple, size = pretrained.encoder.size_multiple, height_and_width(config.image_size)
    if any(side < multiple or side % multiple for side in size):
        raise UserError(
            f"image_size={size_in_words(size)} is not a multiple of {multiple}, the patch of the "
            f"encoder in {pretrained.run}."
        )
    return pretrained


def _check_known(config: ConfigDict, key: str, known: tuple[str, ...]) -> None:
    if config[key] not in known:
        raise UserError(f"{key}={config[key]!r} must be one of {', '.join(known)}.")


def _origin(evaluation: Evaluation) -> dict[str, Any]:
    """Where a metric comes from."""
    config, pretrained = evaluation.config, evaluation.pretrained
    sources = {"train": evaluation.train, "val": evaluation.val}
    return {
        "task": config.task,
        "checkpoint": str(pretrained.run),
        "method": pretrained.method,
        "weights": pretrained.weights,
        "step": pretrained.step,
        "encoder": pretrained.fingerprint,
        "image_size": config.image_size,
        "compute_dtype": config.compute_dtype,
        "seed": config.seed,
        "commit": code_commit(),
        "data": {
            split: {
                "images": len(source),
                "description": source.description,
                "fingerprint": source.fingerprint,
            }
            for split, source in sources.items()
        },
    }
