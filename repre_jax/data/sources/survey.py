"""What a run reads, and what a person who starts it may not know of the images."""

import collections
import time

import numpy as np

from repre_jax.data.sources.decode import BadImage, decode_image
from repre_jax.data.sources.source import Source

# What fewer than one image in twenty shows is an oddity of that image, not of the set.
_SYSTEMATIC_SHARE = 0.05
_SMALL_SIDE = 32
_FEW_CLASSES = 3
# Large photographs take a tenth of a second each: then fewer are looked at.
_SECONDS = 0.5


def in_words(train: Source, val: Source | None) -> str:
    """What a run reads, in one sentence, the sources' remarks, and what a look at some shows.

    Args:
      train: the training images.
      val: the validation images, or None.
    """
    found = f"Images: {_counted(train)}"
    found += f"; for validation {_counted(val)}." if val else "; no validation split."
    remarks = [*train.remarks, *(val.remarks if val else ()), *survey(train)]
    return " ".join(dict.fromkeys([found, *remarks]))


def _counted(source: Source) -> str:
    if source.class_names:
        labels = f"{len(source.class_names):,} classes"
        if len(source.class_names) <= _FEW_CLASSES:  # which may turn out to be splits
            labels += f" ({', '.join(source.class_names)})"
    elif source.labels_at_hand and source.labels is None:
        labels = f"no labels ({source.why_unlabelled})"
    else:
        labels = "labels in the records"
    return f"{len(source):,} of {source.description}, {labels}"


def survey(source: Source, count: int = 64) -> list[str]:
    """Looks at some images and says what is systematic and surprising about them.

    Args:
      source: of the images; those that never were files have nothing to tell.
      count: images to look at, at most, spread evenly over the source; fewer where half a second
        is over before.

    Returns:
      One sentence for each kind of surprise; none for an ordinary set.
    """
    wanted = np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(int)
    # In an order that covers the whole source even where the time ends early.
    wanted = np.random.default_rng(0).permutation(wanted).tolist()
    found, looked, started = collections.Counter(), 0, time.perf_counter()
    for index in wanted:
        found.update(_remarks(source, index))
        looked += 1
        if time.perf_counter() - started > _SECONDS:
            break
    return [
        f"{number} of the {looked} images looked at: {remark}."
        for remark, number in sorted(found.items(), key=lambda item: (-item[1], item[0]))
        if number >= _SYSTEMATIC_SHARE * looked
    ]


def _remarks(source: Source, index: int) -> set[str]:
    remarks = set()
    try:
        encoded = source.encoded(index)
        if encoded is None:
            return remarks
        image = decode_image(encoded, source.name_of(index), remarks)
    except BadImage:
        return {"cannot be read, so that another takes its place"}
    if min(image.shape[:2]) < _SMALL_SIDE:
        remarks.add(f"a side of less than {_SMALL_SIDE} pixels")
    return remarks
