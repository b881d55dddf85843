"""The images of an evaluation: those of the run where the config names no others."""

import numpy as np
from ml_collections import ConfigDict

from repre_jax.data.sources import check_read, has_split, open_source
from repre_jax.data.sources.source import NO_LABEL, Source
from repre_jax.errors import UserError

# Keys of ``config.data`` that mean something else to each source, and their defaults.
_OF_A_SOURCE = {"path": "", "name": "", "labels": "auto"}


def fill_in_data(data: ConfigDict, of_the_run: ConfigDict) -> None:
    """Takes what is None from the run; images of another source take nothing of the run's."""
    given = [key for key, value in data.items() if value is not None]
    data.source = data.source or of_the_run.source
    check_read(data, given)
    same = data.source == of_the_run.source
    for key, value in data.items():
        if value is None:
            data[key] = of_the_run[key] if same else _OF_A_SOURCE.get(key, of_the_run[key])


def check_as_seen(of_the_run: ConfigDict) -> None:
    """Raises UserError where a run's values had a range, for tasks that read pictures as seen."""
    ends = of_the_run.range
    if ends:
        raise UserError(
            f"The encoder was trained on values from {ends[0]:g} to {ends[1]:g} (data.range), and "
            "this task reads pictures of 8 bits, which would be brighter or darker than those."
        )


def open_images(data: ConfigDict, channels: int) -> tuple[Source, Source]:
    """The training and the validation images; without a validation split the former twice."""
    train = open_source(data, "train", channels)
    return train, open_source(data, "val", channels, train) if has_split(data, "val") else train


def open_labelled(data: ConfigDict, channels: int) -> tuple[Source, Source]:
    """The training and the validation images, both with labels, of the same classes.

    Raises:
      UserError: one of them is missing, has no labels, or lacks a class of the other.
    """
    train = open_source(data, "train", channels)
    if not has_split(data, "val"):
        raise UserError(f"{train.description} has no validation split to evaluate on.")
    val = open_source(data, "val", channels, train)
    for source in (train, val):
        if not source.has_labels:
            raise UserError(
                f"{source.description} has no labels ({source.why_unlabelled}); put images into "
                "class folders, or name a table of labels in data.labels."
            )
    if train.labels_at_hand and val.labels_at_hand:  # else once the images have been read
        check_same_classes(train, train.labels, val, val.labels)
    return train, val


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
