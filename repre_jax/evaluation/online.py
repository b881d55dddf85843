"""How good the encoder is while it trains: k-NN, few labels, health of the features."""

from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from repre_jax.data.pipeline import evaluation_batches
from repre_jax.data.sources.source import Source
from repre_jax.evaluation.features import Features, extract_features, pixel_features
from repre_jax.evaluation.few_label import few_label_accuracy
from repre_jax.evaluation.frozen import encode_pixels
from repre_jax.evaluation.knn import knn_accuracy
from repre_jax.losses.meters import effective_rank, feature_std
from repre_jax.sharding import by_row, rounded_up


class OnlineEvaluation:
    """Evaluates encoder parameters on the training set as bank and the validation set as queries.

    Images are resized and centre-cropped, as DINO's eval_knn.py does.

    Attributes:
      train, val: the images.
      unreadable: name -> reason of those that could not be read in the last evaluation, and do not
        count.
    """

    def __init__(
        self,
        encoder: nn.Module,
        train: Source,
        val: Source,
        config: ConfigDict,
        mesh: Mesh,
        feature: str = "pooled",
    ):
        """``config`` is that of the whole run; the sources must have labels.

        ``feature`` is one of ``evaluation.frozen.FEATURES``.
        """
        self.train, self.val, self._config, self._mesh = train, val, config, mesh
        self._encoder = encoder
        self.unreadable: dict[str, str] = {}
        self._classes = max(train.class_count, val.class_count)

        self._encode = encode_pixels(encoder, feature, mesh)
        self._health = jax.jit(
            lambda x: {"feature_std": feature_std(x), "effective_rank": effective_rank(x)}
        )

    def measure(self, params: Any) -> dict[str, float]:
        """k-NN accuracy and health of an encoder with these parameters.

        Returns:
          {"knn/top1", "val/feature_std", "val/effective_rank"} (and "knn/top5").
        """
        bank, queries = self._features(params)
        accuracy = knn_accuracy(
            *bank[:2],
            *queries[:2],
            num_classes=self._classes,
            k=self._config.evaluation.neighbours,
            mesh=self._mesh,
        )
        health = jax.device_get(self._health(queries.features))
        metrics = {f"knn/{name}": float(value) for name, value in accuracy.items()}
        return metrics | {f"val/{name}": float(value) for name, value in health.items()}

    def few_label(self, trained: Any, random: Any) -> dict[str, Any]:
        """Accuracy from 5 labels a class of raw pixels and of two encoders' parameters.

        Returns:
          {"few_label/<name>", "few_label/<name>_std"} for pixels, random and trained, and
          "few_label/protocol".
        """
        splits = (self.train, self.val)
        pixels = [pixel_features(self._encoder, self._batches(source)) for source in splits]
        candidates = {
            "pixels": pixels,
            "random": self._features(random),
            "trained": self._features(trained),
        }
        metrics = {}
        for name, (train, val) in candidates.items():
            result = few_label_accuracy(*train[:2], *val[:2], seed=self._config.seed)
            metrics[f"few_label/{name}"] = result["mean"]
            metrics[f"few_label/{name}_std"] = result["std"]
            metrics["few_label/protocol"] = result["protocol"]
        return metrics

    def _features(self, params: Any) -> tuple[Features, Features]:
        """Features of (training set, validation set)."""

        self.unreadable = {}

        def of(source: Source) -> Features:
            found = extract_features(
                lambda images: self._encode(params, images),
                self._batches(source),
                by_row(self._mesh),
            )
            self.unreadable |= found.unreadable(source)
            return found

        return of(self.train), of(self.val)

    def _batches(self, source: Source):
        return evaluation_batches(
            source,
            image_size=self._config.model.image_size,
            batch_size=rounded_up(self._config.evaluation.batch_size, self._mesh),
            workers=self._config.data.workers,
        )
