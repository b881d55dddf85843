"""Frozen features of a whole data set, on the host, in the order of the data set."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Sharding

from repre_jax.data.batches import why_unreadable
from repre_jax.data.pixel_format import as_shares
from repre_jax.data.sources.source import Source
from repre_jax.models.pixels import encoder_input


class Features(NamedTuple):
    """What is known of the images that could be read, in the order of the data set.

    Attributes:
      features: float32 [n, D], not normalised.
      labels: int32 [n], -1 where unknown.
      index: int32 [n], which images they are.
    """

    features: np.ndarray
    labels: np.ndarray
    index: np.ndarray

    def unreadable(self, source: Source) -> dict[str, str]:
        """{name: reason} of the images of ``source``, of which these are, that are missing."""
        missing = np.setdiff1d(np.arange(len(source)), self.index)
        return dict(why_unreadable(source, int(number)) for number in missing)


def extract_features(
    encode: Callable[[jax.Array], jax.Array],
    batches: Iterable[Mapping[str, np.ndarray]],
    sharding: Sharding,
) -> Features:
    """Encodes every image once and drops the padding of the last batch.

    Args:
      encode: jitted function, images [B, H, W, C] of levels -> features [B, D].
      batches: of ``data.pipeline.evaluation_batches``: this process's rows of "image" uint8,
        "label" and "index" int32, and "mask" bool (False for padding and what is unreadable).
      sharding: of the images; its device count divides the global batch.

    Returns:
      Those of all processes, whole in each.
    """
    rows: list[Features] = []
    pending = None
    for batch in batches:
        images = jax.make_array_from_process_local_data(sharding, batch["image"])
        following = (encode(images), batch["label"], batch["index"], batch["mask"])
        # One batch is computed while the one before is fetched and the next one decoded.
        if pending is not None:
            rows.append(_readable_rows(*pending))
        pending = following
    if pending is None:
        raise ValueError("there is no batch to extract features from")
    rows.append(_readable_rows(*pending))
    return _joined(rows)


def pixel_features(encoder: nn.Module, batches: Iterable[Mapping[str, np.ndarray]]) -> Features:
    """Raw pixels as features, the baseline that every encoder has to beat.

    Normalised as for the encoder: without that, brightness alone decides who is near whom.

    Args:
      encoder: that pixels are to be compared with.
      batches: as for ``extract_features``.

    Returns:
      Normalised pixels, D = H * W * C.
    """
    rows = []
    for batch in batches:
        images = np.asarray(batch["image"])
        pixels = np.asarray(encoder_input(encoder, as_shares(images))).reshape(len(images), -1)
        rows.append(_readable_rows(pixels, batch["label"], batch["index"], batch["mask"]))
    return _joined(rows)


def unit_rows(features: np.ndarray) -> np.ndarray:
    """Rows [n, D] over their lengths; rows of zeros stay so."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _readable_rows(
    values: jax.Array | np.ndarray, labels: np.ndarray, index: np.ndarray, mask: np.ndarray
) -> Features:
    """The rows of a batch that are images, of all processes."""
    arrays = (values, labels, index, mask)
    if jax.process_count() > 1:
        arrays = multihost_utils.process_allgather(arrays, tiled=True)
    values, labels, index, mask = (np.asarray(array) for array in arrays)
    return Features(
        values.astype(np.float32)[mask], labels.astype(np.int32)[mask], index.astype(np.int32)[mask]
    )


def _joined(rows: list[Features]) -> Features:
    return Features(*(np.concatenate(parts) for parts in zip(*rows, strict=True)))
