"""Which images a batch of a detector holds: those of one canvas, in an order of their own.

Every shape of a batch is a compiled program, so canvases are few, and views that are upright and
views that are flat lie in different ones. Source: mmdetection, mmdet/datasets/samplers/
group_sampler.py, which parts images by their shape, fills the last batch of a part with images of
it once more, and shuffles the batches. It goes by the image; this goes by the view, which after a
crop may be upright where the image is flat.
"""

import functools
import threading
from typing import NamedTuple

import numpy as np

from repre_jax.data.batches import PADDING, crop_rng, shuffled
from repre_jax.data.detection.coco import CocoSource
from repre_jax.data.detection.views import DetectionViews

_ONE_AT_A_TIME = threading.Lock()  # threads that make batches would each plan the same epoch


class Lot(NamedTuple):
    """Images of a global batch.

    Attributes:
      canvas: number of the one that they lie in.
      images: int [B], numbers of images, ``PADDING`` for none.
      draws: int [B], what the draws for each are keyed by: its number, and where it fills a batch
        up that of an image that there is not, so that it is seen otherwise than before.
    """

    canvas: int
    images: np.ndarray
    draws: np.ndarray


def training_lot(
    source: CocoSource, views: DetectionViews, step: int, *, batch_size: int, seed: int
) -> tuple[int, Lot]:
    """(epoch, images) of a step of training: a pure function, the same in every process."""
    epoch, step_in_epoch = divmod(step, len(source) // batch_size)
    with _ONE_AT_A_TIME:
        return epoch, _epoch(source, views, epoch, batch_size, seed)[step_in_epoch]


def validation_lots(source: CocoSource, views: DetectionViews, batch_size: int) -> list[Lot]:
    """Every image once, canvas by canvas and in order in it, the last batch of each padded."""
    sizes = (views.whole_window(source.size(index)).size for index in range(len(source)))
    canvases = np.array([views.canvas_of(size) for size in sizes])
    lots = []
    for canvas in np.unique(canvases):
        images = np.flatnonzero(canvases == canvas)
        images = np.pad(images, (0, -len(images) % batch_size), constant_values=PADDING)
        lots += [Lot(int(canvas), rows, rows) for rows in images.reshape(-1, batch_size)]
    return lots


@functools.lru_cache(maxsize=2)  # an epoch, and the next one where batches are made ahead
def _epoch(
    source: CocoSource, views: DetectionViews, epoch: int, batch_size: int, seed: int
) -> list[Lot]:
    """The batches of an epoch; those that were filled up only as far as it has more steps."""
    images = np.array([shuffled(k, len(source), seed, epoch) for k in range(len(source))])
    canvases = np.zeros(len(images), int)
    if len(views.canvases) > 1:  # of COCO's 117,000 images about ten seconds
        windows = (
            views.training_window(source.size(int(image)), crop_rng(seed, epoch, int(image)))
            for image in images
        )
        canvases = np.array([views.canvas_of(window.size) for window in windows])
    full, filled = [], []
    for canvas in np.unique(canvases):
        rows = images[canvases == canvas]
        whole, rest = np.split(rows, [len(rows) // batch_size * batch_size])
        full += [Lot(int(canvas), batch, batch) for batch in whole.reshape(-1, batch_size)]
        if len(rest):
            # Those of the rest have not been seen before, the others have, and again on each round.
            draws = np.resize(np.append(rest, whole + len(source)), batch_size)
            draws += np.arange(batch_size) // len(rows) * len(source)
            filled.append(Lot(int(canvas), draws % len(source), draws))
    lots = (full + _shuffled(filled, seed, epoch))[: len(source) // batch_size]
    return _shuffled(lots, seed, epoch)


def _shuffled(lots: list[Lot], seed: int, epoch: int) -> list[Lot]:
    return [lots[shuffled(k, len(lots), seed, epoch)] for k in range(len(lots))]
