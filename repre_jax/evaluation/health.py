"""Health of a checkpoint's features, without training anything: how they spread, block by block."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from repre_jax.data.device.augment import augment_views
from repre_jax.data.pipeline import prefetch_to_device, training_batches
from repre_jax.data.recipes import ViewRecipe
from repre_jax.data.sources.source import Chosen
from repre_jax.errors import UserError
from repre_jax.evaluation.frozen import block_features, from_levels, frozen_features
from repre_jax.evaluation.images import open_images
from repre_jax.evaluation.retrieval import retrieval_scores
from repre_jax.evaluation.task import SHARED_RANGES, Evaluation, Task
from repre_jax.losses.meters import (
    alignment,
    collapse_verdict,
    effective_rank,
    feature_std,
    spectrum,
    uniformity,
)
from repre_jax.models.pixels import encoder_input
from repre_jax.ranges import AT_LEAST_ONE, Range
from repre_jax.sharding import by_row, jitted, replicated, rounded_up


def measure_health(evaluation: Evaluation) -> dict[str, Any]:
    """Spread, rank, alignment, uniformity, spectra of blocks and retrieval of validation images."""
    config = evaluation.config
    features, labels, index = evaluation.features_of(evaluation.val, config.feature)
    count = min(config.images, len(features))
    if count < 2:
        raise UserError(f"Health needs two images at least; there are {len(features)}.")
    # Spread over the whole set, whose images are sorted by class.
    chosen = np.unique(np.linspace(0, len(features) - 1, count).astype(int))
    sample, sample_labels = np.asarray(features[chosen]), np.asarray(labels[chosen])
    functions = {
        "feature_std": feature_std,
        "effective_rank": effective_rank,
        "uniformity": uniformity,
    }
    health = jax.jit(lambda x: {name: function(x) for name, function in functions.items()})
    metrics: dict[str, Any] = {name: float(x) for name, x in health(sample).items()}
    metrics["width"], metrics["images"] = sample.shape[1], len(sample)
    verdict = metrics["verdict"] = collapse_verdict(
        metrics["feature_std"], sample.shape[1], metrics["effective_rank"]
    )
    metrics["alignment"] = _alignment(evaluation)
    metrics["blocks"] = _blocks(evaluation, index[chosen])
    if np.bincount(sample_labels[sample_labels >= 0], minlength=1).max() > 1:
        metrics["retrieval"] = retrieval_scores(sample, sample_labels, mesh=evaluation.mesh)
    rank = metrics["effective_rank"]
    return {
        "metric": "effective_rank",
        "value": rank,
        "protocol": "health",
        "formula": (
            f"RankMe of the {config.feature} features of {len(sample)} images: exp(entropy of the "
            "shares of the singular values)"
        ),
        "metrics": metrics,
        "line": evaluation.line(
            f"effective rank {rank:.1f} of {sample.shape[1]}, feature std "
            f"{metrics['feature_std']:.3g}, alignment {metrics['alignment']:.3g}, uniformity "
            f"{metrics['uniformity']:.3g}{f'; {verdict}' if verdict else ''}"
        ),
    }


TASK = Task(
    measure=measure_health,
    ranges={**SHARED_RANGES, "images": Range(2), "spectrum_values": AT_LEAST_ONE},
    open=open_images,
)


def pair_of_views(recipe: ViewRecipe) -> ViewRecipe:
    """The recipe's two global views, or its only one drawn twice; no local crops."""
    pair = dataclasses.replace(recipe, local_crops=0)
    if recipe.global_crops == 2:
        return pair
    return dataclasses.replace(
        pair,
        global_crops=2,
        blur_probability=recipe.blur_probability * 2,
        solarise_probability=recipe.solarise_probability * 2,
    )


def _alignment(evaluation: Evaluation) -> float:
    """Of two of the run's own global views, over as many images as the other metrics."""
    config, mesh = evaluation.config, evaluation.mesh
    recipe = pair_of_views(evaluation.pretrained.views)
    count = min(config.images, len(evaluation.val))
    batch_size = rounded_up(min(config.batch_size, count), mesh)
    steps = -(-count // batch_size)
    encoder = evaluation.pretrained.encoder
    # Spread evenly over the set, and begun again to fill the last batch.
    chosen = np.linspace(0, len(evaluation.val) - 1, count).astype(int)

    def total(params, batch):
        """Sum over the images of a batch, without those that only fill it."""
        views = augment_views(batch, recipe, config.seed)["global"]
        images = encoder_input(encoder, views)
        pair = [frozen_features(encoder, params, images[:, v], config.feature) for v in (0, 1)]
        return jnp.sum(alignment(*pair) * (batch["index"] < count))

    total = jitted(total, mesh, out_shardings=replicated(mesh))
    batches = training_batches(
        Chosen(evaluation.val, np.resize(chosen, steps * batch_size)),
        recipe,
        image_size=config.image_size,
        batch_size=batch_size,
        seed=config.seed,
        start_step=0,
        total_steps=steps,
        workers=config.data.workers,
    )
    with prefetch_to_device(batches, by_row(mesh)) as device_batches:
        totals = []
        for batch in device_batches:
            batch = {key: batch[key] for key in ("global", "index", "epoch")}
            totals.append(float(total(evaluation.params, batch)))
    return math.fsum(totals) / count


def _blocks(evaluation: Evaluation, chosen: np.ndarray) -> list[dict[str, Any]]:
    """Spread of every block's ``block_features`` over images of those indices."""
    config, mesh = evaluation.config, evaluation.mesh
    encoder = evaluation.pretrained.encoder

    def encode(params, images):
        return block_features(encoder, params, from_levels(encoder, images), config.feature)

    encode = jitted(encode, mesh, out_shardings=replicated(mesh))
    rows: list[list[np.ndarray]] = [[] for _ in encoder.block_strides]
    with evaluation.batches(evaluation.val, "bicubic") as batches:
        for batch in batches:
            wanted = batch["mask"] & np.isin(batch["index"], chosen)
            images, wanted = (
                jax.make_array_from_process_local_data(by_row(mesh), x)
                for x in (batch["image"], wanted)
            )
            wanted = np.asarray(jax.device_put(wanted, replicated(mesh)))
            for block, feature in zip(rows, encode(evaluation.params, images), strict=True):
                block.append(np.asarray(feature)[wanted])
    describe = jax.jit(lambda x: (feature_std(x), effective_rank(x), spectrum(x)))
    blocks = []
    for k, parts in enumerate(rows):
        std, rank, shares = describe(np.concatenate(parts))
        blocks.append(
            {
                "block": k,
                "feature_std": float(std),
                "effective_rank": float(rank),
                "spectrum": [float(share) for share in shares[: config.spectrum_values]],
            }
        )
    return blocks
