"""What a run reads, and what a person who starts it may not know of the images."""

import collections
import time
from collections.abc import Iterator

import numpy as np
from ml_collections import ConfigDict

from repre_jax.data.sources.decode import BadImage, decode_image
from repre_jax.data.sources.source import Source
from repre_jax.errors import UserError

# What fewer than one image in twenty shows is an oddity of that image, not of the set.
_SYSTEMATIC_SHARE = 0.05
_SMALL_SIDE = 32
_LOOKED_AT = 64
_CUT_OFF = 0.1  # of an image's values
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


def survey(source: Source, count: int = _LOOKED_AT) -> list[str]:
    """Looks at some images and says what is systematic and surprising about them.

    Args:
      source: of the images; those that never were files have nothing to tell.
      count: images to look at, at most, spread evenly over the source; fewer where half a second
        is over before.

    Returns:
      One sentence for each kind of surprise; none for an ordinary set.
    """
    found, looked, started = collections.Counter(), 0, time.perf_counter()
    for index in _spread(source, count):
        found.update(_remarks(source, index))
        looked += 1
        if time.perf_counter() - started > _SECONDS:
            break
    return [
        f"{number} of the {looked} images looked at: {remark}."
        for remark, number in sorted(found.items(), key=lambda item: (-item[1], item[0]))
        if number >= _SYSTEMATIC_SHARE * looked
    ]


def check_normalised(config: ConfigDict, source: Source) -> None:
    """Raises UserError, with numbers to set, when nothing tells how to normalise a run's images.

    Args:
      config: of a run.
      source: its training images, whose channels are measured.
    """
    usual, given = source.pixels.channels in (1, 3), config.data.mean or config.data.std
    if usual or given or not config.model.normalise:
        return
    images = list(_some_images(source))
    if not images:
        return  # reading them will say so
    largest = np.iinfo(source.pixels.dtype).max
    pixels = np.concatenate([x.reshape(-1, x.shape[2]) for x in images]) / largest
    parts = pixels.mean(axis=0), np.maximum(pixels.std(axis=0), 1e-4)
    mean, std = (",".join(f"{x:.4f}" for x in part) for part in parts)
    raise UserError(
        f"Images of {source.pixels.channels} channels have no usual mean and deviation: set "
        f"--config.data.mean='({mean})' --config.data.std='({std})', which are those of "
        f"{len(images)} of {source.description}, or --config.model.normalise=False."
    )


def _some_images(source: Source) -> Iterator[np.ndarray]:
    """Pixels of readable images spread over the source, for half a second at most."""
    started = time.perf_counter()
    for index in _spread(source, _LOOKED_AT):
        try:
            yield source.read(index)
        except BadImage:
            continue
        if time.perf_counter() - started > _SECONDS:
            return


def _spread(source: Source, count: int) -> list[int]:
    """Numbers of images, in an order that covers the whole source even where time ends early."""
    wanted = np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(int)
    return np.random.default_rng(0).permutation(wanted).tolist()


def _remarks(source: Source, index: int) -> set[str]:
    remarks = set()
    try:
        encoded = source.encoded(index)
        if encoded is None:
            return remarks
        image = decode_image(encoded, source.name_of(index), source.pixels, remarks)
    except BadImage:
        return {"cannot be read, so that another takes its place"}
    if source.pixels.range:
        remarks |= _about_range(image)
    if min(image.shape[:2]) < _SMALL_SIDE:
        remarks.add(f"a side of less than {_SMALL_SIDE} pixels")
    return remarks


def _about_range(image: np.ndarray) -> set[str]:
    """Whether values in their range fill too little of it, or are cut off by it."""
    largest = np.iinfo(image.dtype).max
    remarks = set()
    if image.max() < largest / 8:
        remarks.add("values fill less than an eighth of data.range")
    if ((image == 0) | (image == largest)).mean() > _CUT_OFF:
        remarks.add(f"more than {_CUT_OFF:.0%} of the values lie at or beyond data.range")
    return remarks
