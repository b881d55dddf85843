"""k-NN accuracy of raw pixels and of a config's encoder before any training: what to beat.

    python -m benchmarks.untrained <file.json> --config=... --config.data.path=...

Takes main.py's flags. A process of its own, because ``imagenette``, which asks for it, must leave
the accelerator to the runs that it starts.
"""

import sys
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from repre_jax import command_line
from repre_jax.data.pipeline import evaluation_batches
from repre_jax.data.sources import open_source
from repre_jax.errors import UserError
from repre_jax.evaluation.features import pixel_features
from repre_jax.evaluation.knn import knn_accuracy
from repre_jax.evaluation.online import OnlineEvaluation
from repre_jax.runs.folder import write_json
from repre_jax.sharding import make_mesh
from repre_jax.training.learner import build_learner
from repre_jax.training.resolution import resolve


def measure(config: ConfigDict) -> dict[str, Any]:
    """What an encoder at step 0, and no encoder at all, are worth.

    Args:
      config: of a pre-training run on labelled images with a validation split.

    Returns:
      {"train_images", "val_images", "fingerprint" of the training set, "random": numbers of
      ``OnlineEvaluation.measure``, "pixels": {"knn/top1", "knn/top5"}}.
    """
    mesh = make_mesh(config.train.devices)
    train, val = (open_source(config.data, split) for split in ("train", "val"))
    resolution = resolve(config, images=len(train), devices=mesh.size)
    learner = build_learner(config, resolution)
    encoder = jax.jit(learner.init)().params["encoder"]
    random = OnlineEvaluation(learner.encoder, train, val, config, mesh).measure(encoder)
    bank, queries = (
        pixel_features(
            learner.encoder,
            evaluation_batches(
                source,
                image_size=config.model.image_size,
                batch_size=config.evaluation.batch_size,
                workers=config.data.workers,
            ),
        )
        for source in (train, val)
    )
    pixels = knn_accuracy(
        bank.features,
        bank.labels,
        queries.features,
        queries.labels,
        num_classes=int(max(train.labels.max(), val.labels.max())) + 1,
        k=config.evaluation.neighbours,
        mesh=mesh,
    )
    return {
        "train_images": len(train),
        "val_images": len(val),
        "fingerprint": train.fingerprint,
        "random": random,
        "pixels": {f"knn/{name}": value for name, value in pixels.items()},
    }


def main(argv: list[str]) -> int:
    """Writes what ``measure`` returns to the file named first; returns the exit code."""
    try:
        command = command_line.parse([argv[0], *argv[2:]])
        write_json(Path(argv[1]), measure(command.config))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
