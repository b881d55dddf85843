"""One evaluation from top to bottom: checkpoint, images, features, number, ``results.json``."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from repre_jax.code_commit import code_commit
from repre_jax.config_resolution import COMPUTE_DTYPES, compute_dtype
from repre_jax.data.pipeline import evaluation_batches
from repre_jax.data.source import Source, short_hash
from repre_jax.data.sources import has_split, open_source
from repre_jax.errors import UserError
from repre_jax.evaluation.feature_cache import Features, cached_features
from repre_jax.evaluation.features import extract_features
from repre_jax.evaluation.finetune import Task, finetune
from repre_jax.evaluation.finetune_recipes import default_protocol, described, finetune_recipe
from repre_jax.evaluation.frozen import encode_pixels
from repre_jax.evaluation.knn import knn_accuracies
from repre_jax.pretrained import Pretrained, open_pretrained
from repre_jax.run_folder import RunFolder, write_json
from repre_jax.sharding import by_row, make_mesh

# Settings that change where and how fast a number is made, but not the number.
FREE_TO_CHANGE = (
    "workdir",
    "checkpoint",
    "cache_path",
    "batch_size",
    "devices",
    "data.path",
    "data.workers",
    "data.cache_path",
    "save_every_steps",
    "keep_checkpoints",
    "log_every_steps",
)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What every evaluation works with.

    Attributes:
      config: with every default filled in from the run.
      pretrained: the encoder.
      train, val: the labelled images.
      mesh: the devices.
      folder: of this evaluation.
    """

    config: ConfigDict
    pretrained: Pretrained
    train: Source
    val: Source
    mesh: Mesh
    folder: RunFolder

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.train.labels.max()) + 1

    @functools.cached_property
    def params(self) -> Any:
        """The encoder's parameters, read when somebody asks: cached features need none."""
        return self.pretrained.load_params()

    def features(self, feature: str = "pooled", interpolation: str = "bicubic") -> list[Features]:
        """[(features float32 [n, F], labels int32 [n]) of the training, of the validation set].

        Images are resized, centre-cropped, encoded once, and kept on disk.

        Args:
          feature: of ``evaluation.frozen.FEATURES``.
          interpolation: of the resizing.
        """
        return [self._of(source, feature, interpolation) for source in (self.train, self.val)]

    def _of(self, source: Source, feature: str, interpolation: str) -> Features:
        encoder, config = self.pretrained.encoder, self.config
        depends_on = [
            self.pretrained.fingerprint,
            source.fingerprint,
            config.data.cache_size,
            config.image_size,
            encoder.dtype.name,
            feature,
            interpolation,
        ]
        key = short_hash(json.dumps(depends_on).encode())

        def compute() -> Features:
            normalised = self.pretrained.config.model.normalise
            encode = jax.jit(encode_pixels(encoder, feature, normalised))
            batches = self.batches(source, interpolation)
            return extract_features(lambda x: encode(self.params, x), batches, by_row(self.mesh))

        return cached_features(Path(config.cache_path) / f"{feature}-{key}", compute)

    def batches(self, source: Source, interpolation: str):
        """Batches of every image, padded so that every device has its share."""
        devices = self.mesh.size
        return evaluation_batches(
            source,
            image_size=self.config.image_size,
            batch_size=-(-self.config.batch_size // devices) * devices,
            interpolation=interpolation,
            workers=self.config.data.workers,
        )


def evaluate(config: ConfigDict, workdir: Path | None) -> dict[str, Any] | None:
    """Measures what ``config.task`` names and returns what it wrote to ``results.json``.

    An evaluation that is finished is not repeated; one that trains and is told to stop saves and
    returns None, and goes on when it is asked for again.

    Args:
      config: of ``configs/eval/``.
      workdir: folder of the evaluation; None for one in the run's ``eval/``, named after weights,
        step and a hash of all settings.

    Raises:
      UserError: whatever the user can mend.
    """
    started = time.monotonic()
    config = config.copy_and_resolve_references()
    with config.unlocked():
        pretrained = _open(config)
        train, val = open_labelled(config.data)
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
            if jax.process_index() == 0:
                write_json(results_path, results)
    print(f"{results['line']} ({results_path})")
    return results


def measure_knn(evaluation: Evaluation) -> dict[str, Any]:
    """Weighted k-NN as in DINO's eval_knn.py, for every k of ``config.neighbours``."""
    config = evaluation.config
    train, val = evaluation.features()
    accuracies = knn_accuracies(
        *train,
        *val,
        num_classes=evaluation.classes,
        neighbours=tuple(config.neighbours),
        temperature=config.temperature,
        mesh=evaluation.mesh,
    )
    reported = config.reported_neighbours
    if reported not in accuracies:
        raise UserError(f"reported_neighbours={reported} must be one of neighbours.")
    value = accuracies[reported]["top1"]
    return {
        "metric": "top1",
        "value": value,
        "protocol": "dino_knn",
        "formula": (
            f"argmax over classes of the sum, over the k = {reported} nearest training images by "
            f"cosine, of exp(cosine / {config.temperature:g})"
        ),
        "numbers": {f"k={k}": numbers for k, numbers in accuracies.items()},
        "line": _line(evaluation, f"k-NN top-1 {value:.2%} (k = {reported})"),
    }


def measure_finetune(evaluation: Evaluation) -> dict[str, Any] | None:
    """Accuracy of the whole network, fine-tuned by a recipe of ``evaluation.finetune_recipes``."""
    config, pretrained = evaluation.config, evaluation.pretrained
    protocol = config.protocol or default_protocol(pretrained.config.model.name)
    recipe = finetune_recipe(protocol, config.recipe.to_dict())
    task = Task(
        config=config,
        recipe=recipe,
        encoder=pretrained.encoder,
        encoder_params=evaluation.params,
        normalised=pretrained.config.model.normalise,
        train=evaluation.train,
        classes=evaluation.classes,
        val_batches=lambda: evaluation.batches(evaluation.val, recipe.interpolation),
        mesh=evaluation.mesh,
        folder=evaluation.folder,
    )
    numbers = finetune(task)
    if numbers is None:
        return None
    value, best = numbers["last"]["val/top1"], numbers["best"]["val/top1"]
    told = f"fine-tuned top-1 {value:.2%} (best epoch {best['value']:.2%})"
    return {
        "metric": "top1",
        "value": value,
        "protocol": protocol,
        "formula": described(recipe),
        "wall_seconds": numbers.pop("wall_seconds"),
        "numbers": numbers,
        "line": _line(evaluation, told),
    }


MEASURES: dict[str, Callable[[Evaluation], dict[str, Any] | None]] = {
    "knn": measure_knn,
    "finetune": measure_finetune,
}


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
        if source.labels is None:
            raise UserError(f"{source.description} has no labels; put images into class folders.")
    in_train, in_val = (set(np.unique(x.labels).tolist()) - {-1} for x in (train, val))
    for lacking, source in ((in_train - in_val, val), (in_val - in_train, train)):
        if lacking:
            names = train.class_names or {}
            told = ", ".join(str(names[c] if names else c) for c in sorted(lacking)[:3])
            raise UserError(
                f"{source.description} has no image of {len(lacking)} class(es) that the other "
                f"split has ({told}): an accuracy over them would mean nothing."
            )
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


def _line(evaluation: Evaluation, number: str) -> str:
    encoder = evaluation.pretrained
    return f"{number} of {encoder.run.name}, {encoder.weights} weights, step {encoder.step:,}"
