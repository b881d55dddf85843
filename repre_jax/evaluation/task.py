"""What an evaluation is: a kind of it as a record, ``Task``, and one under way, ``Evaluation``."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from repre_jax.data.host.crops import CENTRE_CROP
from repre_jax.data.pipeline import evaluation_batches
from repre_jax.data.pixel_format import PixelFormat
from repre_jax.data.sources.source import Source, short_hash
from repre_jax.errors import UserError
from repre_jax.evaluation.checkpoint import Pretrained
from repre_jax.evaluation.feature_cache import cached_features
from repre_jax.evaluation.features import Features, extract_features
from repre_jax.evaluation.frozen import encode_pixels
from repre_jax.evaluation.images import check_same_classes, open_labelled
from repre_jax.image_size import height_and_width
from repre_jax.ranges import AT_LEAST_ONE, NOT_NEGATIVE, SEED, Range
from repre_jax.runs.folder import RunFolder
from repre_jax.sharding import by_row, replicated, rounded_up

# Of the keys that all evaluations share (configs/eval/default.py).
ENCODER_RANGES = {
    "seed": SEED,
    "step": NOT_NEGATIVE,
    "image_size": AT_LEAST_ONE,
    "batch_size": AT_LEAST_ONE,
    "devices": NOT_NEGATIVE,
}
ENCODER_FREE_TO_CHANGE = ("workdir", "stopped_is_success", "checkpoint", "batch_size", "devices")
# Of those whose images have maps of classes.
LABEL_RANGES = {"data.classes": NOT_NEGATIVE, "data.ignore": NOT_NEGATIVE}
# And of those whose images are the run's.
DATA_RANGES = {"data.workers": NOT_NEGATIVE, "data.cache_size": NOT_NEGATIVE}
SHARED_RANGES = {**ENCODER_RANGES, **DATA_RANGES}
SHARED_FREE_TO_CHANGE = (
    *ENCODER_FREE_TO_CHANGE,
    "cache_path",
    "data.path",
    "data.workers",
    "data.cache_path",
)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What every evaluation of a frozen encoder works with.

    Attributes:
      config: with every default filled in from the run.
      pretrained: the encoder.
      train, val: the images, as the task opens them.
      mesh: the devices.
      folder: of this evaluation; None where nothing is measured, only features are wanted.
      unreadable: description of a source -> {name: reason} of its images that could not be read.
      features_commits: of the code that made the features in use, some perhaps long ago.
    """

    config: ConfigDict
    pretrained: Pretrained
    train: Source
    val: Source
    mesh: Mesh
    folder: RunFolder | None
    unreadable: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    features_commits: set[str] = dataclasses.field(default_factory=set)

    @property
    def classes(self) -> int:
        """Number of classes of labelled images."""
        return self.train.class_count

    def line(self, metric: str) -> str:
        """A metric and what it is of, for the screen."""
        encoder = self.pretrained
        return f"{metric} of {encoder.run.name}, {encoder.weights} weights, step {encoder.step:,}"

    @property
    def batch_size(self) -> int:
        """``config.batch_size``, rounded up so that every device has its share."""
        return rounded_up(self.config.batch_size, self.mesh)

    @functools.cached_property
    def params(self) -> Any:
        """The encoder's parameters on every device, read when asked for: cached features need none.

        A training that changes them takes ``pretrained.load_params()``, which are on the host.
        """
        return jax.device_put(self.pretrained.load_params(), replicated(self.mesh))

    def features(self, feature: str) -> list[Features]:
        """``features_of`` [the training, the validation images], whose classes are the same."""
        train, val = (self.features_of(source, feature) for source in (self.train, self.val))
        check_same_classes(self.train, train.labels, self.val, val.labels)
        return [train, val]

    def features_of(self, source: Source, feature: str, interpolation: str = "bicubic") -> Features:
        """Features of a set of images: resized, centre-cropped, encoded once, and kept on disk.

        Args:
          source: the images.
          feature: of ``evaluation.frozen.FEATURES``.
          interpolation: of the resizing.

        Raises:
          UserError: no image can be read.
        """
        encoder, config = self.pretrained.encoder, self.config
        depends_on = [
            self.pretrained.fingerprint,
            source.fingerprint,
            source.content(),
            dataclasses.astuple(source.pixels),
            config.data.cache_size,
            height_and_width(config.image_size),
            encoder.dtype.name,
            feature,
            interpolation,
        ]
        key = short_hash(json.dumps(depends_on).encode())

        def compute() -> Features:
            encode = encode_pixels(encoder, feature, self.mesh)
            batches = self.batches(source, interpolation)
            return extract_features(lambda x: encode(self.params, x), batches, by_row(self.mesh))

        folder = Path(config.cache_path) / f"{feature}-{key}"
        found, commit = cached_features(folder, len(source), compute)
        self.features_commits.add(commit)
        self.note_unreadable(source, found)
        return found

    def encode(self, images: np.ndarray, feature: str) -> np.ndarray:
        """Features float32 [n, D] of a few images [n, H, W, C] of levels, which are not kept."""
        one_device = Mesh(jax.local_devices()[:1], ("batch",))  # is enough
        encode = encode_pixels(self.pretrained.encoder, feature, one_device)
        starts = range(0, len(images), self.config.batch_size)
        chunks = (images[start : start + self.config.batch_size] for start in starts)
        params = jax.tree.map(lambda x: x.addressable_data(0), self.params)
        return np.concatenate([encode(params, chunk) for chunk in chunks])

    def check_batch(self, key: str, size: int) -> None:
        """Raises UserError for a batch of training that devices or images cannot share.

        Args:
          key: of the config, or of the recipe, that says ``size``.
          size: images of it, over all devices.
        """
        devices, images = self.mesh.size, len(self.train)
        if size % devices:
            raise UserError(
                f"{key}={size} cannot be split over {devices} devices; choose a multiple."
            )
        if images < size:
            raise UserError(
                f"There are {images:,} training images, fewer than {key}={size}: lower it."
            )

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
        if len(found.index) < len(source) and source.description not in self.unreadable:
            self.note_missing(source, found.unreadable(source), len(source), "images")

    def note_missing(self, source: Source, missing: dict[str, str], of: int, what: str) -> None:
        """Says that images, or clips, of ``source`` do not count.

        Args:
          source: of them.
          missing: {name: reason}, some.
          of: how many there are.
          what: they are.

        Raises:
          UserError: all of them are missing.
        """
        first = ": ".join(next(iter(missing.items())))
        if len(missing) == of:
            raise UserError(f"None of the {what} of {source.description} can be read ({first}).")
        self.unreadable[source.description] = missing
        if jax.process_index() == 0:
            listed = "; results.json lists them" if self.folder else ""
            print(
                f"{len(missing)} of the {of:,} {what} of {source.description} cannot be read "
                f"({first}): they do not count{listed}."
            )

    def batches(self, source: Source, interpolation: str, crop_ratio: float = CENTRE_CROP):
        """Batches of every image, padded so that every device has its share."""
        return evaluation_batches(
            source,
            image_size=self.config.image_size,
            batch_size=self.batch_size,
            interpolation=interpolation,
            crop_ratio=crop_ratio,
            workers=self.config.data.workers,
        )


@dataclasses.dataclass(frozen=True)
class Task:
    """A kind of evaluation; ``evaluation.TASKS`` has them by name.

    Attributes:
      measure: gives the task's part of ``results.json``: "metric" (its name), "value", "protocol",
        "formula" (what the value is, in words), "metrics" (everything measured), "line" (for the
        screen), and where known "spread" and "wall_seconds".
      ranges: dotted config key -> what its numbers may be, for all keys that are numbers.
      free_to_change: dotted config keys that change where and how fast a metric is made, but not
        the metric.
      open: (``config.data``, channels of the encoder) -> the training and the validation images; a
        UserError where the task can do nothing with them.
      own_data: whether the keys of ``config.data`` are the task's own; otherwise what is None there
        is the run's.
      protocols: what ``config.protocol`` may be; () for a task without that key.
      default_protocol: of an encoder, when ``config.protocol`` is empty; None without protocols.
      fingerprint: of a config and the images' format, the hash of what lies in the files that the
        former names, beside the images; None where it names none. UserError when they cannot be
        read.
      less_memory: what to do where the devices have too little of it.
    """

    measure: Callable[[Evaluation], dict[str, Any]]
    ranges: Mapping[str, Range]
    free_to_change: tuple[str, ...] = SHARED_FREE_TO_CHANGE
    open: Callable[[ConfigDict, int], tuple[Source, Source]] = open_labelled
    own_data: bool = False
    protocols: tuple[str, ...] = ()
    default_protocol: Callable[[Pretrained], str] | None = None
    fingerprint: Callable[[ConfigDict, PixelFormat], str] | None = None
    less_memory: str = "Lower batch_size, or set more devices."
