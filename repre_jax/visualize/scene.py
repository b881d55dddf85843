"""What figures are drawn of: checkpoints, side by side, and the images that they are shown."""

import dataclasses
import functools
import textwrap
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from repre_jax.data.samples import Sample
from repre_jax.data.sources.source import Source
from repre_jax.evaluation.checkpoint import Pretrained
from repre_jax.evaluation.encoder import Encoder
from repre_jax.evaluation.task import Evaluation
from repre_jax.sharding import make_mesh


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A checkpoint that is looked at.

    Attributes:
      name: of its run, and of its step where several are of one run.
      config: with every default filled in from the run.
      pretrained: the encoder, not read yet.
      views: of the images, float32 [n, H, W, C] in [0, 1], of the size that the encoder is shown.
      blocks: to be shown.
    """

    name: str
    config: ConfigDict
    pretrained: Pretrained
    views: np.ndarray
    blocks: tuple[int, ...]

    @property
    def told(self) -> str:
        """What it is, for titles."""
        return self.with_weights(self.pretrained.weights)

    def with_weights(self, weights: str) -> str:
        """What it is, for titles of figures that show these weights of it."""
        return f"{self.name} ({weights} weights, step {self.pretrained.step:,})"

    @functools.cached_property
    def encoder(self) -> Encoder:
        """The encoder as a function of images."""
        return Encoder(self.pretrained, jax.device_put(self.pretrained.load_params()))


@dataclasses.dataclass(frozen=True)
class Scene:
    """All that figures are drawn of.

    Attributes:
      config: of ``configs/look.py``, its data filled in from the first run.
      subjects: the checkpoints.
      samples: the images, the same for all.
      folder: where figures go.
      open_images: gives the training and the validation images, or a UserError.
    """

    config: ConfigDict
    subjects: list[Subject]
    samples: list[Sample]
    folder: Path
    open_images: Callable[[], tuple[Source, Source]]

    @property
    def alone(self) -> bool:
        """Whether there is one checkpoint only, so that rows need not be told apart by it."""
        return len(self.subjects) == 1

    @property
    def told(self) -> str:
        """What the subjects are, for titles."""
        return "; ".join(subject.told for subject in self.subjects)

    @property
    def feature(self) -> str:
        """Which feature the subjects are compared by, for titles."""
        of_subjects = {subject.name: subject.config.feature for subject in self.subjects}
        if len(set(of_subjects.values())) == 1:
            return self.subjects[0].config.feature
        return ", ".join(f"{feature} ({name})" for name, feature in of_subjects.items())

    def row_name(self, subject: Subject, *parts: str) -> str:
        """What stands at the left of a row."""
        of_subject = [] if self.alone else textwrap.wrap(subject.name, 14)
        return "\n".join([*of_subject, *parts])

    def path(self, figure: str, subject: Subject | None = None) -> Path:
        """File of a figure, of all subjects or of one of them."""
        own = "" if subject is None or self.alone else f"_{subject.name.replace(' ', '_')}"
        return self.folder / f"{figure}{own}.png"

    @functools.cached_property
    def images(self) -> tuple[Source, Source]:
        """The training and the validation images; without a validation split the former twice."""
        return self.open_images()

    @functools.cached_property
    def evaluations(self) -> list[Evaluation]:
        """What makes and keeps features of many images, for every subject."""
        mesh = make_mesh(self.config.devices, key="devices")
        return [
            Evaluation(subject.config, subject.pretrained, *self.images, mesh, None)
            for subject in self.subjects
        ]
