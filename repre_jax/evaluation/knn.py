"""Weighted k-nearest-neighbour classification, as DINO evaluates (eval_knn.py of its authors).

Both sets are L2-normalised; each of the k nearest training features by cosine votes for its class
with weight exp(similarity / temperature); the class with the largest sum wins.

The training features stream through the devices a chunk at a time while each query keeps its
best k so far, so the memory on the device does not grow with the training set.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

BANK_CHUNK = 8192
QUERY_CHUNK = 1024


def knn_accuracy(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    val_features: np.ndarray,
    val_labels: np.ndarray,
    *,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
    mesh: Mesh | None = None,
    bank_chunk: int = BANK_CHUNK,
    query_chunk: int = QUERY_CHUNK,
) -> dict[str, float]:
    """Shares of the validation examples whose class wins, or is among the first five.

    Examples whose label is negative (unknown) neither vote nor count. With fewer than k training
    examples all of them vote. Equally similar neighbours are taken in the order of the training
    set, and equal votes go to the lower class.

    Args:
      train_features: [n, D], normalised here.
      train_labels: int [n].
      val_features: [m, D], normalised here.
      val_labels: int [m].
      num_classes: labels are below it.
      k: number of neighbours.
      temperature: of the vote weights.
      mesh: its axis "batch" shares the queries out; None for one device.
      bank_chunk: training examples on the device at a time.
      query_chunk: queries, a device, whose similarities are held at a time.

    Returns:
      {"top1": ...} and, with more than five classes, "top5"; shares in [0, 1].

    Raises:
      ValueError: no labelled example in one of the sets, or a label of ``num_classes`` or more.
    """
    train_features, train_labels = _labelled(train_features, train_labels, num_classes)
    val_features, val_labels = _labelled(val_features, val_labels, num_classes)
    mesh = mesh or Mesh(np.array(jax.devices()[:1]), ("batch",))
    by_query = NamedSharding(mesh, PartitionSpec(None, "batch"))
    replicated = NamedSharding(mesh, PartitionSpec())

    rows = mesh.size * min(query_chunk, -(-len(val_labels) // mesh.size))
    queries = jax.device_put(_in_chunks(val_features, rows), by_query)
    best = (
        jax.device_put(np.full((*queries.shape[:2], k), -np.inf, np.float32), by_query),
        jax.device_put(np.zeros((*queries.shape[:2], k), np.int32), by_query),
    )
    bank_chunk = min(bank_chunk, len(train_labels))
    for start in range(0, len(train_labels), bank_chunk):
        features = _padded(train_features[start : start + bank_chunk], bank_chunk, 0)
        labels = _padded(train_labels[start : start + bank_chunk], bank_chunk, -1)
        previous = best
        best = _merge_chunk(best, queries, *jax.device_put((features, labels), replicated))
        jax.block_until_ready(previous)  # else all chunks would wait on the device at once
    targets = jax.device_put(_in_chunks(val_labels, rows, fill=-1), by_query)
    hits = _count_hits(best, targets, num_classes, temperature)
    names = ["top1", "top5"] if num_classes > 5 else ["top1"]
    return {name: int(hits[name]) / len(val_labels) for name in names}


@jax.jit
def _merge_chunk(best, queries, bank, bank_labels):
    """The k best of the k so far and one chunk of the bank.

    Args:
      best: (similarities [c, q, k], labels [c, q, k]), descending.
      queries: [c, q, D].
      bank: [b, D].
      bank_labels: int [b], -1 for padding.

    Returns:
      as ``best``.
    """

    def merge(chunk):
        similarities, labels, query = chunk
        new = jnp.einsum("qd,bd->qb", query, bank, precision=jax.lax.Precision.HIGHEST)
        new = jnp.where(bank_labels >= 0, new, -jnp.inf)
        # The earlier ones first, for top_k prefers the lower index among equals.
        new_labels = jnp.broadcast_to(bank_labels, new.shape)
        similarities, order = jax.lax.top_k(
            jnp.concatenate([similarities, new], axis=1), similarities.shape[1]
        )
        labels = jnp.take_along_axis(jnp.concatenate([labels, new_labels], axis=1), order, axis=1)
        return similarities, labels

    return jax.lax.map(merge, (*best, queries))


@functools.partial(jax.jit, static_argnames=("num_classes", "temperature"))
def _count_hits(best, targets, num_classes, temperature):
    """Numbers of queries whose target has the most votes, or is among the first five.

    Args:
      best: (similarities [c, q, k], labels [c, q, k]).
      targets: int [c, q], -1 for padding.
    """

    def hits(chunk):
        similarities, labels, target = chunk
        weights = jnp.exp(similarities / temperature)  # 0 where there was no neighbour

        def vote(votes, one):  # neighbour by neighbour: always the same order of summation
            weight, label = one
            return votes + weight[:, None] * jax.nn.one_hot(label, num_classes), None

        votes = jnp.zeros((len(target), num_classes))
        votes, _ = jax.lax.scan(vote, votes, (weights.T, labels.T))
        ranking = jax.lax.top_k(votes, min(5, num_classes))[1]
        right = ranking == target[:, None]
        return {"top1": right[:, 0].sum(), "top5": right.sum()}

    return jax.tree.map(jnp.sum, jax.lax.map(hits, (*best, targets)))


def _labelled(
    features: np.ndarray, labels: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    features, labels = np.asarray(features, np.float32), np.asarray(labels, np.int32)
    known = labels >= 0
    if not known.any():
        raise ValueError("k-NN needs labelled examples in both sets")
    if labels.max() >= num_classes:
        raise ValueError(f"label {labels.max()} with num_classes={num_classes}")
    features, labels = features[known], labels[known]
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(norms, 1e-12), labels


def _padded(array: np.ndarray, rows: int, fill: float) -> np.ndarray:
    widths = [(0, rows - len(array))] + [(0, 0)] * (array.ndim - 1)
    return np.pad(array, widths, constant_values=fill)


def _in_chunks(array: np.ndarray, rows: int, fill: float = 0) -> np.ndarray:
    """[m, ...] -> [chunks, rows, ...], the last chunk padded."""
    chunks = -(-len(array) // rows)
    return _padded(array, chunks * rows, fill).reshape(chunks, rows, *array.shape[1:])
