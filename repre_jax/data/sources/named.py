"""Sources whose images have names and sizes, by which they are told and labelled."""

import abc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

import numpy as np

from repre_jax.data.sources.label_table import match_rows, read_table
from repre_jax.data.sources.labels import (
    AUTO,
    FOLDERS,
    NONE,
    TABLE_SUFFIXES,
    Labels,
    folder_labels,
    no_labels,
    number_classes,
)
from repre_jax.data.sources.names import PackedNames
from repre_jax.data.sources.source import Source, short_hash
from repre_jax.errors import UserError


class NamedSource(Source):
    """Images with names.

    Attributes:
      names: relative to where the images lie, with "/" after each folder.
      sizes: int64 [n], bytes of each image.
      own_labels: of each image, as text, where labels lie beside the images.
    """

    labelled_by = (AUTO, NONE, FOLDERS, *TABLE_SUFFIXES)
    names: PackedNames
    sizes: np.ndarray
    own_labels: list[str | None] | None = None

    @classmethod
    @abc.abstractmethod
    def find(cls, data_config, split: str) -> Self:
        """The images of a split without labels; raises ``UserError`` when it is not there."""

    @classmethod
    def open(cls, data_config, split: str, train: Source | None = None) -> Self:
        """Opens a split of ``data_config.path``; raises ``UserError`` when it is not there."""
        rule = data_config.get("labels") or AUTO
        splits = [split]
        if rule.endswith(TABLE_SUFFIXES):  # of whose rows some may be those of the other split
            splits = ["train", "val"] if cls.has_split(data_config, "val") else ["train"]
        elif rule != NONE and split == "val" and train is None:
            splits = ["train", "val"]  # whose classes have the numbers of training
        found = {name: cls.find(data_config, name) for name in dict.fromkeys([*splits, split])}
        label(rule, found, train.class_names if train else None)
        return found[split]

    def take_labels(self, labels: Labels) -> None:
        """Has these labels from now on."""
        self.labels, self.class_names, self.why_unlabelled = labels
        self.own_labels = None
        of_labels = b"" if self.labels is None else self.labels.tobytes()
        self.fingerprint = short_hash(
            self.names.block,
            self.names.ends.tobytes(),
            self.sizes.tobytes(),
            of_labels,
            *self._told_besides(),
        )

    def _told_besides(self) -> Iterator[bytes]:
        """What the fingerprint depends on beside names, sizes and labels."""
        return iter(())

    def __len__(self) -> int:
        return len(self.names)

    def listing(self) -> Iterator[bytes]:
        for index, size in enumerate(self.sizes):
            yield self.names.encoded(index) + f"\t{size:,} bytes".encode()


def label(
    rule: str, splits: Mapping[str, NamedSource], known: tuple[str, ...] | None = None
) -> None:
    """Labels the splits of a set, all with the class numbers of the training images.

    Args:
      rule: of ``data.labels``.
      splits: changed in place.
      known: classes of the training images, where those are not among ``splits``.

    Raises:
      UserError: they cannot be labelled so.
    """
    of_table: dict[str, list[str | None]] = {}
    if rule.endswith(TABLE_SUFFIXES):
        path = Path(rule).expanduser()
        labels, remarks = match_rows(read_table(path), path, list(splits.values()))
        of_table = dict(zip(splits, labels, strict=True))
    for split in sorted(splits, key=["train", "val"].index):
        source = splits[split]
        if rule == NONE:
            labels = no_labels("data.labels=none")
        elif of_table:
            labels = number_classes(of_table[split], known, source.description, "label")
            source.remarks += remarks
        elif source.own_labels and rule == AUTO:
            labels = number_classes(source.own_labels, known, source.description, "label")
        else:
            labels = folder_labels(source, known)
        if rule == FOLDERS and labels.numbers is None:
            raise UserError(
                f"data.labels=folders, but {source.description} has no class folders to go by: "
                f"{labels.why_not}."
            )
        source.take_labels(labels)
        known = known or labels.class_names
