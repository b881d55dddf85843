"""What k-NN over a training set of ImageNet's size needs: memory on the device, time, exactness.

    python -m benchmarks.knn_memory                                # 1,281,167 x 384, 512 queries
    python -m benchmarks.knn_memory --bank=100000 --queries=50000

Features are generated: clusters on a sphere, one for each of 1,000 classes. The program runs whole;
XLA's own plan says what it needs on the device, for these queries and for ImageNet's 50,000.
The first ``--checked`` queries are compared with a plain numpy reading of the whole bank.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks.options import start
from benchmarks.provenance import provenance, save_result
from repre_jax.evaluation import knn

OPTIONS = flags.FlagValues()
_BANK = flags.DEFINE_integer("bank", 1_281_167, "training features", flag_values=OPTIONS)
_QUERIES = flags.DEFINE_integer("queries", 512, "validation features", flag_values=OPTIONS)
_WIDTH = flags.DEFINE_integer("width", 384, "numbers in a feature", flag_values=OPTIONS)
_CHECKED = flags.DEFINE_integer("checked", 32, "queries compared with numpy", flag_values=OPTIONS)

CLASSES = 1000
NEIGHBOURS = (10, 20, 100, 200)
TEMPERATURE = 0.07
IMAGENET_QUERIES = 50_000


def generated(count: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features float32 [count, width] of overlapping clusters, and their classes."""
    centres = np.random.default_rng(0).normal(size=(CLASSES, width)).astype(np.float32)
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=count).astype(np.int32)
    features = rng.standard_normal(size=(count, width), dtype=np.float32)
    features *= 3
    features += centres[labels]
    return features, labels


def device_bytes(queries: int, width: int) -> dict[str, int]:
    """XLA's plan for one chunk of the bank, on one device."""
    rows = min(knn.QUERY_CHUNK, queries)
    chunks = -(-queries // rows)
    shape = (chunks, rows)
    best = (
        jax.ShapeDtypeStruct((*shape, max(NEIGHBOURS)), jnp.float32),
        jax.ShapeDtypeStruct((*shape, max(NEIGHBOURS)), jnp.int32),
    )
    bank = jax.ShapeDtypeStruct((knn.BANK_CHUNK, width), jnp.float32)
    labels = jax.ShapeDtypeStruct((knn.BANK_CHUNK,), jnp.int32)
    query = jax.ShapeDtypeStruct((*shape, width), jnp.float32)
    plan = knn._merge_chunk.lower(best, query, bank, labels).compile().memory_analysis()
    parts = {
        "arguments": plan.argument_size_in_bytes,
        "outputs": plan.output_size_in_bytes,
        "temporary": plan.temp_size_in_bytes,
    }
    return parts | {"all": sum(parts.values())}


def plain_classes(bank, labels, queries, k: int) -> np.ndarray:
    """The winning class of each query, read off the whole bank at once."""
    unit = bank / np.linalg.norm(bank, axis=1, keepdims=True)
    winners = []
    for query in queries:
        similarities = unit @ (query / np.linalg.norm(query))
        nearest = np.argpartition(-similarities, k)[:k]
        weights = np.exp(similarities[nearest].astype(np.float64) / TEMPERATURE)
        winners.append(np.argmax(np.bincount(labels[nearest], weights, minlength=CLASSES)))
    return np.asarray(winners)


def main(argv: list[str]) -> None:
    del argv
    bank, labels = generated(_BANK.value, _WIDTH.value, seed=1)
    queries, targets = generated(_QUERIES.value, _WIDTH.value, seed=2)
    started = time.perf_counter()
    rankings = knn.knn_rankings(
        bank,
        labels,
        queries,
        num_classes=CLASSES,
        neighbours=NEIGHBOURS,
        temperature=TEMPERATURE,
    )
    seconds = time.perf_counter() - started
    checked = min(_CHECKED.value, len(queries))
    agree = {
        str(k): float(
            np.mean(plain_classes(bank, labels, queries[:checked], k) == rankings[k][:checked, 0])
        )
        for k in NEIGHBOURS
    }
    result = provenance() | {
        "bank": _BANK.value,
        "queries": _QUERIES.value,
        "width": _WIDTH.value,
        "bank_chunk": knn.BANK_CHUNK,
        "query_chunk": knn.QUERY_CHUNK,
        "seconds": round(seconds, 1),
        "bank_bytes_on_host": bank.nbytes,
        "device_bytes": device_bytes(_QUERIES.value, _WIDTH.value),
        "device_bytes_for_imagenet": device_bytes(IMAGENET_QUERIES, _WIDTH.value),
        "top1": {str(k): float(np.mean(rankings[k][:, 0] == targets)) for k in NEIGHBOURS},
        "share_equal_to_numpy": agree,
        "checked_queries": checked,
    }
    path = save_result(f"knn_memory_{jax.default_backend()}", result)
    for name in ("seconds", "device_bytes", "device_bytes_for_imagenet", "share_equal_to_numpy"):
        print(f"{name}: {result[name]}")
    print(f"Written to {path}")


if __name__ == "__main__":
    start(main, OPTIONS)
