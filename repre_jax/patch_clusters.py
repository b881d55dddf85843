"""Centroids of patches, the vocabulary of a k-means tokenizer, from a set of images."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

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

RANGES = {
    "seed": SEED,
    "data.workers": NOT_NEGATIVE,
    "data.cache_size": NOT_NEGATIVE,
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
    from sklearn.cluster import MiniBatchKMeans  # a second to import: only this needs it

    check_ranges(config, RANGES)
    check_image_size(config.image_size, "image_size")
    if any(side % config.patch_size for side in height_and_width(config.image_size)):
        raise UserError(
            f"image_size={size_in_words(config.image_size)} is not a multiple of "
            f"patch_size={config.patch_size}."
        )
    source = open_source(config.data, "train", config.channels)
    means = MiniBatchKMeans(config.vocabulary, random_state=config.seed, n_init=1, max_iter=1)
    counted = 0
    for epoch in range(config.epochs):
        pending: list[np.ndarray] = []
        for patches in _patches(config, source, epoch):
            pending.append(patches)
            # The first call chooses the centroids among its patches, so it needs enough of them.
            if sum(map(len, pending)) >= 3 * config.vocabulary:
                means.partial_fit(np.concatenate(pending))
                pending = []
            counted += len(patches)
        print(f"Epoch {epoch + 1}/{config.epochs}: {counted:,} patches.")
    if not hasattr(means, "cluster_centers_"):
        raise UserError(
            f"{source.description} gives {counted:,} patches, fewer than three for each of "
            f"vocabulary={config.vocabulary}: lower it, or raise patches_per_image."
        )
    path = Path(workdir) / "centroids.npz"
    with disk_trouble_told(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            path,
            centroids=means.cluster_centers_.astype(np.float32),
            made_of=f"{source.description}, fingerprint {source.fingerprint}",
        )
    print(f"{config.vocabulary:,} centroids of {counted:,} patches: {path}")
    return path


def _patches(config: ConfigDict, source: Source, epoch: int) -> Iterator[np.ndarray]:
    """float32 [n, P * P * C] of a batch of images at a time, so many of each at random."""
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
            images = as_shares(batch["image"][batch["mask"]])
            patches = patchify(normalise(images, normalisation), config.patch_size)
            count = min(config.patches_per_image, patches.shape[1])
            order = rng.random(patches.shape[:2]).argsort(axis=1)[:, :count]
            chosen = np.take_along_axis(np.asarray(patches), order[..., None], axis=1)
            chosen = chosen.reshape(-1, chosen.shape[-1])
            yield np.asarray(patch_targets(chosen, per_patch=True))
