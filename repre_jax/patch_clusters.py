"""Centroids of patches, the vocabulary of a k-means tokenizer, from a set of images."""

from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from repre_jax.data.batches import why_unreadable
from repre_jax.data.pipeline import evaluation_batches
from repre_jax.data.pixel_format import as_shares
from repre_jax.data.sources import open_source
from repre_jax.data.sources.source import Source
from repre_jax.errors import UserError
from repre_jax.image_size import check_image_size, height_and_width, size_in_words
from repre_jax.losses.masked import patch_targets
from repre_jax.models.pixels import normalisation_of, normalise, patchify
from repre_jax.ranges import AT_LEAST_ONE, NOT_NEGATIVE, SEED, Range, check_ranges
from repre_jax.runs.disk_errors import disk_trouble_told
from repre_jax.runs.folder import written_whole

RANGES = {
    "seed": SEED,
    "data.workers": NOT_NEGATIVE,
    "data.cache_size": NOT_NEGATIVE,
    "image_size": AT_LEAST_ONE,
    "patch_size": AT_LEAST_ONE,
    "channels": AT_LEAST_ONE,
    "vocabulary": Range(2),
    "patches_per_image": AT_LEAST_ONE,
    "epochs": AT_LEAST_ONE,
    "batch_size": AT_LEAST_ONE,
}


def cluster_patches(config: ConfigDict, workdir: Path) -> Path:
    """Finds ``config.vocabulary`` centroids and writes ``centroids.npz`` into ``workdir``.

    A few random patches of every training image, whole and centred, are normalised as the tokenizer
    normalises them (``models.tokenizers``) and handed to scikit-learn's mini-batch k-means.

    Args:
      config: of ``configs/patch_clusters.py``.
      workdir: made if need be.

    Returns:
      The file: "centroids" float32 [K, P * P * C], and what they were made of.

    Raises:
      UserError: whatever the user can mend.
    """
    check_ranges(config, RANGES)
    check_image_size(config.image_size, "image_size")
    if jax.process_count() > 1:
        raise UserError("Patches are clustered by one process: leave --distributed out.")
    if any(side % config.patch_size for side in height_and_width(config.image_size)):
        raise UserError(
            f"image_size={size_in_words(config.image_size)} is not a multiple of "
            f"patch_size={config.patch_size}."
        )
    source = open_source(config.data, "train", config.channels)
    centroids, counted = _cluster(config, source)
    path = Path(workdir) / "centroids.npz"
    with disk_trouble_told(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as unfinished, open(unfinished, "wb") as file:
        np.savez(
            file,
            centroids=centroids,
            made_of=f"{source.description}, fingerprint {source.fingerprint}",
        )
    print(f"{config.vocabulary:,} centroids of {counted:,} patches: {path}")
    return path


def _cluster(config: ConfigDict, source: Source) -> tuple[np.ndarray, int]:
    """(centroids float32 [K, P * P * C], how many patches they are of)."""
    from sklearn.cluster import MiniBatchKMeans  # a second to import: only this needs it

    means = MiniBatchKMeans(config.vocabulary, random_state=config.seed, n_init=1, max_iter=1)
    counted, pending = 0, np.empty((0, 0), np.float32)
    unreadable: dict[int, tuple[str, str]] = {}
    for epoch in range(config.epochs):
        for patches in _patches(config, source, epoch, unreadable):
            pending = np.concatenate([pending, patches]) if len(pending) else patches
            # The first call chooses the centroids among its patches, so it needs enough of them.
            if len(pending) >= 3 * config.vocabulary:
                means.partial_fit(pending)
                counted, pending = counted + len(pending), pending[:0]
        print(f"Epoch {epoch + 1}/{config.epochs}: {counted:,} patches.")
    if unreadable:
        name, reason = next(iter(unreadable.values()))
        print(f"{len(unreadable):,} images could not be read, such as {name} ({reason}).")
    if not counted:
        raise UserError(
            f"{source.description} gives {len(pending):,} patches, fewer than three for each of "
            f"vocabulary={config.vocabulary}: lower it, or raise patches_per_image or epochs."
        )
    if len(pending):
        means.partial_fit(pending)
    return means.cluster_centers_.astype(np.float32), counted + len(pending)


def _patches(
    config: ConfigDict, source: Source, epoch: int, unreadable: dict[int, tuple[str, str]]
) -> Iterator[np.ndarray]:
    """float32 [n, P * P * C] of a batch of images at a time, so many of each at random.

    Images that cannot be read are added to ``unreadable``: number -> (name, reason).
    """
    rng = np.random.default_rng((config.seed, epoch))
    normalisation = normalisation_of(config.data, channels=config.channels, wanted=True)
    batches = evaluation_batches(
        source,
        image_size=config.image_size,
        batch_size=config.batch_size,
        workers=config.data.workers,
    )
    with batches:
        for batch in batches:
            for index in batch["index"][~batch["mask"] & (batch["index"] >= 0)].tolist():
                if index not in unreadable:
                    unreadable[index] = why_unreadable(source, index)
            images = as_shares(batch["image"][batch["mask"]])
            patches = patchify(normalise(images, normalisation), config.patch_size)
            count = min(config.patches_per_image, patches.shape[1])
            order = rng.random(patches.shape[:2]).argsort(axis=1)[:, :count]
            chosen = np.take_along_axis(np.asarray(patches), order[..., None], axis=1)
            chosen = chosen.reshape(-1, chosen.shape[-1])
            yield np.asarray(patch_targets(chosen, per_patch=True))
