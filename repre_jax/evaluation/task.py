"""What can be measured of a frozen encoder: functions from an ``Evaluation`` to results."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from repre_jax.data.host.crops import CENTRE_CROP
from repre_jax.data.pipeline import evaluation_batches
from repre_jax.data.sources.source import NO_LABEL, Source, short_hash
from repre_jax.errors import UserError
from repre_jax.evaluation.checkpoint import Pretrained
from repre_jax.evaluation.feature_cache import cached_features
from repre_jax.evaluation.features import Features, extract_features
from repre_jax.evaluation.few_label import check_budget, few_label_scores
from repre_jax.evaluation.frozen import encode_pixels
from repre_jax.evaluation.knn import knn_accuracies
from repre_jax.runs.folder import RunFolder
from repre_jax.sharding import by_row


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What every evaluation of a frozen encoder works with.

    Attributes:
      config: with every default filled in from the run.
      pretrained: the encoder.
      train, val: the labelled images.
      mesh: the devices.
      folder: of this evaluation.
      unreadable: description of a source -> names of its images that could not be read so far.
      features_commits: of the code that made the features in use, some perhaps long ago.
    """

    config: ConfigDict
    pretrained: Pretrained
    train: Source
    val: Source
    mesh: Mesh
    folder: RunFolder
    unreadable: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    features_commits: set[str] = dataclasses.field(default_factory=set)

    @property
    def classes(self) -> int:
        """Number of classes."""
        names = self.train.class_names
        return len(names) if names else int(self.train.labels.max()) + 1

    def line(self, number: str) -> str:
        """A number and what it is of, for the screen."""
        encoder = self.pretrained
        return f"{number} of {encoder.run.name}, {encoder.weights} weights, step {encoder.step:,}"

    @functools.cached_property
    def params(self) -> Any:
        """The encoder's parameters, read when somebody asks: cached features need none."""
        return self.pretrained.load_params()

    def features(self, feature: str = "pooled", interpolation: str = "bicubic") -> list[Features]:
        """[those of the training, of the validation set].

        Images are resized, centre-cropped, encoded once, and kept on disk.

        Args:
          feature: of ``evaluation.frozen.FEATURES``.
          interpolation: of the resizing.
        """
        train, val = (
            self.features_of(source, feature, interpolation) for source in (self.train, self.val)
        )
        check_same_classes(self.train, train.labels, self.val, val.labels)
        return [train, val]

    def features_of(
        self, source: Source, feature: str = "pooled", interpolation: str = "bicubic"
    ) -> Features:
        """As ``features``, of one set of images."""
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

        folder = Path(config.cache_path) / f"{feature}-{key}"
        found, commit = cached_features(folder, len(source), compute)
        self.features_commits.add(commit)
        self.note_unreadable(source, found)
        return found

    def check_classes(self, val_labels: np.ndarray) -> None:
        """Raises UserError when a class is missing from the labels of the validation images.

        Of training labels that only a reading of all records would tell, the names of the classes
        are taken instead.
        """
        at_hand = self.train.labels_at_hand
        train_labels = self.train.labels if at_hand else np.arange(self.classes)
        check_same_classes(self.train, train_labels, self.val, val_labels)

    def note_unreadable(self, source: Source, found: Features) -> None:
        """Says which images of ``source`` are missing from those that were read, once.

        Raises:
          UserError: all of them.
        """
        names = found.unreadable(source)
        if not names or source.description in self.unreadable:
            return
        if len(names) == len(source):
            raise UserError(f"None of the images of {source.description} can be read ({names[0]}).")
        self.unreadable[source.description] = names
        if jax.process_index() == 0:
            print(
                f"{len(names)} of the {len(source):,} images of {source.description} cannot be "
                f"read ({names[0]}): they do not count; results.json lists them."
            )

    def batches(self, source: Source, interpolation: str, crop_ratio: float = CENTRE_CROP):
        """Batches of every image, padded so that every device has its share."""
        devices = self.mesh.size
        return evaluation_batches(
            source,
            image_size=self.config.image_size,
            batch_size=-(-self.config.batch_size // devices) * devices,
            interpolation=interpolation,
            crop_ratio=crop_ratio,
            workers=self.config.data.workers,
        )


def check_same_classes(
    train: Source, train_labels: np.ndarray, val: Source, val_labels: np.ndarray
) -> None:
    """Raises UserError when one of the splits has no image of a class of the other."""
    in_train, in_val = (set(np.unique(x).tolist()) - {NO_LABEL} for x in (train_labels, val_labels))
    for lacking, source in ((in_train - in_val, val), (in_val - in_train, train)):
        if lacking:
            names = train.class_names or {}
            told = ", ".join(str(names[c] if names else c) for c in sorted(lacking)[:3])
            raise UserError(
                f"{source.description} has no image of {len(lacking)} class(es) that the other "
                f"split has ({told}): an accuracy over them would mean nothing."
            )


def measure_knn(evaluation: Evaluation) -> dict[str, Any]:
    """Weighted k-NN as in DINO's eval_knn.py, for every k of ``config.neighbours``."""
    config, reported = evaluation.config, evaluation.config.reported_neighbours
    if reported not in config.neighbours:
        raise UserError(
            f"reported_neighbours={reported} must be one of neighbours={tuple(config.neighbours)}."
        )
    train, val = evaluation.features()
    accuracies = knn_accuracies(
        *train[:2],
        *val[:2],
        num_classes=evaluation.classes,
        neighbours=tuple(config.neighbours),
        temperature=config.temperature,
        mesh=evaluation.mesh,
    )
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
        "line": evaluation.line(f"k-NN top-1 {value:.2%} (k = {reported})"),
    }


def measure_few_label(evaluation: Evaluation) -> dict[str, Any]:
    """Accuracy from 1 %, 10 % or a few labels a class, by k-NN and by logistic regression."""
    config = evaluation.config
    budgets = [str(budget) for budget in config.budgets]
    if not budgets:
        raise UserError("budgets is empty; for example --config.budgets=\"('1%','5')\".")
    for budget in budgets:
        check_budget(budget)
    train, val = evaluation.features()
    numbers = {
        budget: few_label_scores(
            *train[:2],
            *val[:2],
            budget=budget,
            draws=config.draws,
            seed=config.seed,
            neighbours=config.neighbours,
            temperature=config.temperature,
            strength=config.strength,
            mesh=evaluation.mesh,
        )
        for budget in budgets
    }
    reported = budgets[0]
    logistic = numbers[reported]["logistic"]
    deviation = logistic.get("std")  # of several draws
    spread = "" if deviation is None else f" +- {deviation:.2%}"
    return {
        "metric": "top1",
        "value": logistic["mean"],
        "spread": deviation,
        "protocol": f"few_label_{reported}",
        "formula": (
            f"multinomial logistic regression on {reported} of the labels of each class, rows "
            f"centred and of unit length, sum of losses + {config.strength:g} / 2 |W|^2, no "
            f"intercept; mean and deviation of {config.draws} draws"
        ),
        "numbers": numbers,
        "line": evaluation.line(
            f"few-label top-1 {logistic['mean']:.2%}{spread} (logistic regression, {reported} of "
            "the labels)"
        ),
    }
