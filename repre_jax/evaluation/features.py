"""Frozen features of a whole data set, on the host, in the order of the data set."""

from collections.abc import Callable, Iterable, Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Sharding

from repre_jax.data.augmentations import normalise


def extract_features(
    encode: Callable[[jax.Array], jax.Array],
    batches: Iterable[Mapping[str, np.ndarray]],
    sharding: Sharding,
) -> tuple[np.ndarray, np.ndarray]:
    """Encodes every image once and drops the padding of the last batch.

    Args:
      encode: jitted function, uint8 images [B, S, S, 3] -> features [B, D].
      batches: of ``data.pipeline.evaluation_batches``: this process's rows of "image" uint8,
        "label" int32 (-1 when unknown) and "mask" bool (False for padding).
      sharding: of the images; its device count divides the global batch.

    Returns:
      (features float32 [n, D], not normalised; labels int32 [n]), whole in every process.
    """
    features, labels = [], []
    pending = None
    for batch in batches:
        images = jax.make_array_from_process_local_data(sharding, batch["image"])
        following = (encode(images), batch["label"], batch["mask"])
        # One batch is computed while the one before is fetched and the next one decoded.
        if pending is not None:
            _append_rows(pending, features, labels)
        pending = following
    if pending is None:
        raise ValueError("there is no batch to extract features from")
    _append_rows(pending, features, labels)
    return np.concatenate(features), np.concatenate(labels)


def pixel_features(batches: Iterable[Mapping[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Raw pixels as features, the baseline that every encoder has to beat.

    Normalised as for the encoders: without that, brightness alone decides who is near whom.

    Args:
      batches: as for ``extract_features``.

    Returns:
      (normalised pixels float32 [n, S * S * 3], labels int32 [n]).
    """
    features, labels = [], []
    for batch in batches:
        images = np.asarray(batch["image"])
        pixels = np.asarray(normalise(images.astype(np.float32) / 255)).reshape(len(images), -1)
        _append_rows((pixels, batch["label"], batch["mask"]), features, labels)
    return np.concatenate(features), np.concatenate(labels)


def _append_rows(
    output: tuple[jax.Array | np.ndarray, np.ndarray, np.ndarray],
    features: list[np.ndarray],
    labels: list[np.ndarray],
) -> None:
    values, label, mask = output
    if jax.process_count() > 1:
        values, label, mask = multihost_utils.process_allgather((values, label, mask), tiled=True)
    mask = np.asarray(mask, bool)
    features.append(np.asarray(values, np.float32)[mask])
    labels.append(np.asarray(label, np.int32)[mask])
