"""A few images to look at or to ask about: given by their paths, or spread over a source."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from repre_jax.data.batches import read_or_next
from repre_jax.data.host.crops import centre_view
from repre_jax.data.pixel_format import RGB, PixelFormat
from repre_jax.data.sources.decode import BadImage, decode_image
from repre_jax.data.sources.source import NO_LABEL, Source
from repre_jax.errors import UserError
from repre_jax.image_size import ImageSize


class Sample(NamedTuple):
    """An image.

    Attributes:
      name: path or record id.
      pixels: [H, W, C], whole.
      label: class, -1 when unknown.
    """

    name: str
    pixels: np.ndarray
    label: int


def sample_images(source: Source, count: int) -> list[Sample]:
    """So many images, spread evenly over a source; in place of an unreadable one the next.

    Raises:
      UserError: no image of the source can be read.
    """
    samples = []
    for wanted in np.linspace(0, len(source) - 1, count).astype(int):
        index, pixels, label = read_or_next(source, int(wanted))
        samples.append(Sample(source.name_of(index), pixels, label))
    return samples


def read_samples(paths: str, key: str, pixels: PixelFormat = RGB) -> list[Sample]:
    """Images of the files that ``paths`` names, commas between them.

    Raises:
      UserError: one of them cannot be read; it is named, and so is ``key`` of the config.
    """
    samples = []
    for path in filter(None, (text.strip() for text in paths.split(","))):
        file = Path(path).expanduser()
        try:
            samples.append(Sample(path, decode_image(file.read_bytes(), path, pixels), NO_LABEL))
        except (OSError, BadImage) as error:
            reason = error.reason if isinstance(error, BadImage) else error.strerror
            raise UserError(
                f"{key} names {path}, which cannot be read as an image ({reason}): give paths of "
                "image files, separated by commas."
            ) from None
    return samples


def centre_views(samples: Sequence[Sample], image_size: ImageSize) -> np.ndarray:
    """Evaluation views of images: [n, H, W, C]."""
    return np.stack([centre_view(sample.pixels, image_size) for sample in samples])
