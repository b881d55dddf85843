"""The settings of the recorded probes, shared by the recording scripts and the tests. No torch."""

import numpy as np
from golden.weights import generator

# k-NN: features of a few clusters that overlap, so that k decides.
KNN = {"bank": 700, "queries": 230, "width": 24, "classes": 12}
NEIGHBOURS = (10, 20, 100, 200)
TEMPERATURE = 0.07

# Linear probes: EPOCHS of STEPS_PER_EPOCH steps on features that are not centred.
STEPS_PER_EPOCH, EPOCHS = 2, 12
BATCH, WIDTH, CLASSES = 16, 12, 6
BATCH_SIZE_OF_RATE = 1024  # the batch that learning rates are scaled to
PROTOCOLS = ("dino", "moco_v3", "mocov2", "simsiam", "moby", "byol", "simclr", "mae")


def knn_features() -> dict[str, np.ndarray]:
    """Unit features and labels of bank and queries."""
    rng = generator("probe/knn")
    labels = rng.integers(KNN["classes"], size=KNN["bank"] + KNN["queries"])
    centres = rng.normal(size=(KNN["classes"], KNN["width"]))
    features = centres[labels] + 1.6 * rng.normal(size=(len(labels), KNN["width"]))
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    bank = slice(None, KNN["bank"])
    queries = slice(KNN["bank"], None)
    return {
        "train_features": features[bank],
        "train_labels": labels[bank],
        "test_features": features[queries],
        "test_labels": labels[queries],
    }


def probe_features(step: int) -> tuple[np.ndarray, np.ndarray]:
    """(features float32 [B, F], labels int64 [B]) of a step; one is so large that clipping acts."""
    rng = generator(f"probe/linear/{step}")
    labels = rng.integers(CLASSES, size=BATCH)
    features = 0.5 + rng.normal(size=(BATCH, WIDTH)) + 0.2 * labels[:, None]
    features *= 8 if step == 2 else 1
    return features.astype(np.float32), labels


def probe_kernel() -> np.ndarray:
    """The first kernel, float32 [F, C], for every protocol."""
    return (0.01 * generator("probe/kernel").normal(size=(WIDTH, CLASSES))).astype(np.float32)
