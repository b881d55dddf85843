"""Accuracy with a handful of labels a class: what the features separate by themselves.

The classifier is the nearest labelled neighbour by cosine. It has nothing to tune, so pixels,
random and trained encoders meet on equal terms whatever their width, scale and offset.
"""

import numpy as np


def few_label_accuracy(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    val_features: np.ndarray,
    val_labels: np.ndarray,
    *,
    labels_per_class: int = 5,
    draws: int = 10,
    seed: int = 0,
) -> dict[str, float | str]:
    """Classifies the validation set from a few labelled training examples, several times over.

    The draws are a function of the seed and the labels alone, so features of different encoders
    are judged by the same examples. A class that has fewer gives all it has; examples whose label
    is negative (unknown) are left out.

    Args:
      train_features: [n, D].
      train_labels: int [n].
      val_features: [m, D].
      val_labels: int [m].
      labels_per_class: labelled examples drawn from each class.
      draws: independent draws.
      seed: of the draws.

    Returns:
      {"mean", "std"} of the accuracy over the draws, shares in [0, 1], and "protocol" in words.

    Raises:
      ValueError: one of the sets has no labelled example.
    """
    train_labels, val_labels = np.asarray(train_labels), np.asarray(val_labels)
    queries = _normalise(np.asarray(val_features)[val_labels >= 0])
    targets = val_labels[val_labels >= 0]
    classes = np.unique(train_labels[train_labels >= 0])
    if not len(classes) or not len(targets):
        raise ValueError("few-label accuracy needs labelled examples in both sets")
    accuracies = []
    for draw in range(draws):
        rng = np.random.default_rng((seed, draw))
        chosen = np.concatenate(
            [rng.permutation(np.flatnonzero(train_labels == c))[:labels_per_class] for c in classes]
        )
        bank = _normalise(np.asarray(train_features)[chosen])
        nearest = np.argmax(queries @ bank.T, axis=1)
        accuracies.append(np.mean(train_labels[chosen][nearest] == targets))
    return {
        "mean": float(np.mean(accuracies)),
        "std": float(np.std(accuracies)),
        "protocol": (
            f"{labels_per_class} labels a class, nearest labelled neighbour by cosine, "
            f"mean of {draws} draws"
        ),
    }


def _normalise(features: np.ndarray) -> np.ndarray:
    features = features.astype(np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
