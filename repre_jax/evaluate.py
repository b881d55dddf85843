"""One evaluation from top to bottom: checkpoint, images, features, number, ``results.json``."""

import contextlib
import functools
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from repre_jax.data.sources import has_split, open_source
from repre_jax.data.sources.source import Source
from repre_jax.errors import UserError
from repre_jax.evaluation.checkpoint import Pretrained, open_pretrained
from repre_jax.evaluation.finetune.measure import measure_finetune
from repre_jax.evaluation.finetune.recipes import RECIPES, default_protocol
from repre_jax.evaluation.health import measure_health
from repre_jax.evaluation.linear.measure import measure_linear
from repre_jax.evaluation.linear.protocols import LINEAR_PROTOCOLS, default_linear_protocol
from repre_jax.evaluation.task import Evaluation, check_same_classes, measure_few_label, measure_knn
from repre_jax.ranges import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE, Range, check_ranges
from repre_jax.runs.commit import code_commit
from repre_jax.runs.folder import RunFolder, write_json
from repre_jax.sharding import make_mesh
from repre_jax.training.resolution import COMPUTE_DTYPES, compute_dtype

# name of the task -> function that gives its own part of results.json
MEASURES: dict[str, Callable[[Evaluation], dict[str, Any] | None]] = {
    "knn": measure_knn,
    "few_label": measure_few_label,
    "linear": measure_linear,
    "finetune": measure_finetune,
    "health": measure_health,
}
NEED_NO_LABELS = ("health",)
# Of the tasks, where they have such a number; those of config.recipe are with the recipes.
RANGES = {
    "seed": NOT_NEGATIVE,
    "step": NOT_NEGATIVE,
    "image_size": AT_LEAST_ONE,
    "batch_size": AT_LEAST_ONE,
    "devices": NOT_NEGATIVE,
    "data.workers": NOT_NEGATIVE,
    "data.cache_size": NOT_NEGATIVE,
    "neighbours": AT_LEAST_ONE,
    "reported_neighbours": AT_LEAST_ONE,
    "temperature": POSITIVE,
    "draws": AT_LEAST_ONE,
    "strength": POSITIVE,
    "rate_factors": POSITIVE,
    "seeds": AT_LEAST_ONE,
    "epochs": NOT_NEGATIVE,
    "train_batch_size": NOT_NEGATIVE,
    "save_every_epochs": NOT_NEGATIVE,
    "validate_every_epochs": NOT_NEGATIVE,
    "save_every_steps": NOT_NEGATIVE,
    "log_every_steps": NOT_NEGATIVE,
    "keep_checkpoints": AT_LEAST_ONE,
    "images": Range(2),
    "spectrum_values": AT_LEAST_ONE,
}
# Settings that change where and how fast a number is made, but not the number.
FREE_TO_CHANGE = (
    "workdir",
    "checkpoint",
    "cache_path",
    "save_every_epochs",
    "batch_size",
    "devices",
    "data.path",
    "data.workers",
    "data.cache_path",
    "save_every_steps",
    "keep_checkpoints",
    "log_every_steps",
)


def evaluate(config: ConfigDict, workdir: Path | None) -> dict[str, Any] | None:
    """Measures what ``config.task`` names and returns what it wrote to ``results.json``.

    An evaluation that is finished is not repeated; one that is told to stop saves and returns None,
    and goes on when it is asked for again.

    Args:
      config: of ``configs/eval/``.
      workdir: folder of the evaluation; None for one in the run's ``eval/``, named after weights,
        step and a hash of all settings.

    Raises:
      UserError: whatever the user can mend.
    """
    started = time.monotonic()
    check_ranges(config, RANGES)
    config = config.copy_and_resolve_references()
    with config.unlocked():
        pretrained = _open(config)
        opened = open_images if config.task in NEED_NO_LABELS else open_labelled
        train, val = opened(config.data)
    settings = config.to_dict() | {
        "encoder": pretrained.fingerprint,
        "images": {"train": train.fingerprint, "val": val.fingerprint},
    }
    workdir = workdir or default_workdir(pretrained, settings)
    if not config.cache_path:
        config.cache_path = str(workdir.parent / "features")
    with contextlib.closing(_folder(workdir, settings)) as folder:
        results_path = folder.path / "results.json"
        if results_path.exists():
            results = json.loads(results_path.read_text())
        else:
            mesh = make_mesh(config.devices, key="devices")
            evaluation = Evaluation(config, pretrained, train, val, mesh, folder)
            measured = MEASURES[config.task](evaluation)
            if measured is None:
                return None
            wall_seconds = round(time.monotonic() - started, 2)
            results = _origin(evaluation) | {"wall_seconds": wall_seconds} | measured
            if evaluation.features_commits:
                results["features_commits"] = sorted(evaluation.features_commits)
            if evaluation.unreadable:
                results["unreadable"] = evaluation.unreadable
            if jax.process_index() == 0:
                write_json(results_path, results)
    if jax.process_index() == 0:
        print(f"{results['line']} ({results_path})")
    return results


def open_images(data: ConfigDict) -> tuple[Source, Source]:
    """The training and the validation images; without a validation split the former twice."""
    train = open_source(data, "train")
    return train, open_source(data, "val") if has_split(data, "val") else train


def open_labelled(data: ConfigDict) -> tuple[Source, Source]:
    """The training and the validation images, both with labels, of the same classes.

    Raises:
      UserError: one of them is missing, has no labels, or lacks a class of the other.
    """
    train = open_source(data, "train")
    if not has_split(data, "val"):
        raise UserError(f"{train.description} has no validation split to evaluate on.")
    val = open_source(data, "val")
    for source in (train, val):
        if source.class_names is None and source.labels is None:
            raise UserError(f"{source.description} has no labels; put images into class folders.")
    if train.labels_at_hand and val.labels_at_hand:  # else once the images have been read
        check_same_classes(train, train.labels, val, val.labels)
    return train, val


def default_workdir(pretrained: Pretrained, settings: dict[str, Any]) -> Path:
    """``<run>/eval/knn-target-1440-3fa2b1c0``, another one for what may give another number."""
    flat = json.loads(json.dumps(settings))
    for key in FREE_TO_CHANGE:
        *sections, name = key.split(".")
        inner = functools.reduce(dict.__getitem__, sections, flat)
        inner.pop(name, None)
    digest = hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()[:8]
    name = f"{settings['task']}-{pretrained.weights}-{pretrained.step}-{digest}"
    return pretrained.run / "eval" / name


def _open(config: ConfigDict) -> Pretrained:
    """Opens the encoder and fills in what the config leaves to the run."""
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
    if "protocol" in config:
        config.protocol = _protocol(config, pretrained)
    for key in config.data:
        if config.data[key] is None:
            config.data[key] = run.data[key]
    multiple = pretrained.encoder.size_multiple
    if config.image_size < multiple or config.image_size % multiple:
        raise UserError(
            f"image_size={config.image_size} is not a multiple of {multiple}, the patch of the "
            f"encoder in {pretrained.run}."
        )
    return pretrained


def _protocol(config: ConfigDict, pretrained: Pretrained) -> str:
    """The protocol asked for, or that of the method (linear probe) or backbone (fine-tuning)."""
    method, model = pretrained.method, pretrained.config.model.name
    known, usual = {
        "linear": (LINEAR_PROTOCOLS, default_linear_protocol(method)),
        "finetune": (RECIPES, default_protocol(model)),
    }[config.task]
    name = config.protocol or usual
    if name not in known:
        raise UserError(f"protocol={name!r} must be one of {', '.join(known)}.")
    return name


def _folder(workdir: Path, settings: dict[str, Any]) -> RunFolder:
    primary = jax.process_index() == 0
    return RunFolder(workdir, settings, ignore=FREE_TO_CHANGE, primary=primary)


def _origin(evaluation: Evaluation) -> dict[str, Any]:
    """Where a number comes from."""
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
