"""Weighted k-nearest-neighbour classification, as DINO evaluates (eval_knn.py of its authors).

Both sets are L2-normalised; each of the k nearest training features by cosine votes for its class
with weight exp(similarity / temperature); the class with the largest sum wins.

The training features stream through the devices a chunk at a time while each query keeps its
best k so far, so the memory on the device does not grow with the training set.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from repre_jax.errors import UserError
from repre_jax.evaluation.features import unit_rows
from repre_jax.evaluation.task import SHARED_RANGES, Evaluation, Task
from repre_jax.ranges import AT_LEAST_ONE, POSITIVE

BANK_CHUNK = 8192
QUERY_CHUNK = 1024
_RANKED = 5  # classes of which the order is told


def measure_knn(evaluation: Evaluation) -> dict[str, Any]:
    """Weighted k-NN as in DINO's eval_knn.py, for every k of ``config.neighbours``."""
    config, reported = evaluation.config, evaluation.config.reported_neighbours
    if reported not in config.neighbours:
        raise UserError(
            f"reported_neighbours={reported} must be one of neighbours={tuple(config.neighbours)}."
        )
    train, val = evaluation.features(config.feature)
    accuracies = knn_accuracies(
        *train[:2],
        *val[:2],
        num_classes=evaluation.classes,
        neighbours=tuple(config.neighbours),
        temperature=config.temperature,
        mesh=evaluation.mesh,
    )
    value = accuracies[reported]["top1"]
    images = int(np.sum(np.asarray(train.labels) >= 0))
    all_vote = f"; there are {images} training images, which all vote" if images < reported else ""
    return {
        "metric": "top1",
        "value": value,
        "protocol": "dino_knn",
        "formula": (
            f"argmax over classes of the sum, over the k = {reported} nearest training images by "
            f"cosine of their {config.feature} features, of exp(cosine / {config.temperature:g})"
            f"{all_vote}"
        ),
        "metrics": {f"k={k}": shares for k, shares in accuracies.items()},
        "line": evaluation.line(f"k-NN top-1 {value:.2%} (k = {reported})"),
    }


TASK = Task(
    measure=measure_knn,
    ranges={
        **SHARED_RANGES,
        "neighbours": AT_LEAST_ONE,
        "reported_neighbours": AT_LEAST_ONE,
        "temperature": POSITIVE,
    },
)


def knn_accuracies(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    val_features: np.ndarray,
    val_labels: np.ndarray,
    *,
    num_classes: int,
    neighbours: Sequence[int] = (10, 20, 100, 200),
    **options: Any,
) -> dict[int, dict[str, float]]:
    """Shares of the validation examples whose class wins, or is among the first five, for every k.

    Examples whose label is negative (unknown) neither vote nor count.

    Args:
      train_features: [n, D].
      train_labels: int [n].
      val_features: [m, D].
      val_labels: int [m].
      num_classes: labels are below it.
      neighbours: the numbers k.
      **options: of ``knn_rankings``.

    Returns:
      {k: {"top1": ...} and, where more than five classes have labelled training examples, "top5"};
      shares in [0, 1]. With fewer than five neighbours "top5" is that of the first k classes, as in
      the official code: the classes behind them have no vote.

    Raises:
      ValueError: no labelled example in one of the sets, or a label of ``num_classes`` or more.
    """
    val_features, val_labels = _labelled(val_features, val_labels, num_classes)
    rankings = knn_rankings(
        train_features,
        train_labels,
        val_features,
        num_classes=num_classes,
        neighbours=neighbours,
        **options,
    )
    voting = np.unique(train_labels)  # fewer than num_classes where labels have gaps
    ranked = np.sum(voting >= 0) > _RANKED
    accuracies = {}
    for k, ranking in rankings.items():
        right = ranking == val_labels[:, None]
        accuracies[k] = {"top1": float(np.mean(right[:, 0]))}
        if ranked:
            accuracies[k]["top5"] = float(np.mean(right[:, :k].any(axis=1)))
    return accuracies


def knn_accuracy(*features_and_labels: np.ndarray, k: int = 20, **options: Any) -> dict[str, float]:
    """``knn_accuracies`` for one k."""
    return knn_accuracies(*features_and_labels, neighbours=(k,), **options)[k]


def knn_rankings(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    queries: np.ndarray,
    *,
    num_classes: int,
    neighbours: Sequence[int],
    temperature: float | None = 0.07,
    mesh: Mesh | None = None,
    bank_chunk: int = BANK_CHUNK,
    query_chunk: int = QUERY_CHUNK,
) -> dict[int, np.ndarray]:
    """The classes with the most votes, best first, for every k in one pass over the bank.

    With fewer than k training examples all of them vote. Equally similar neighbours are taken in
    the order of the training set, and equal votes go to the lower class.

    Args:
      train_features: [n, D], normalised here.
      train_labels: int [n]; examples with a negative label do not vote.
      queries: [m, D], normalised here.
      num_classes: labels are below it.
      neighbours: the numbers k.
      temperature: of the vote weights; None for equal votes.
      mesh: its axis "batch" shares the queries out; None for one device.
      bank_chunk: training examples on the device at a time.
      query_chunk: queries, a device, whose similarities are held at a time.

    Returns:
      {k: int32 [m, min(5, num_classes)]}.

    Raises:
      ValueError: as ``knn_accuracies``; or a k below 1.
    """
    if min(neighbours) < 1:
        raise ValueError(f"neighbours={neighbours} must be at least 1")
    train_features, train_labels = _labelled(train_features, train_labels, num_classes)
    similarities, voters = nearest(
        train_features,
        train_labels,
        queries,
        max(neighbours),
        mesh=mesh,
        bank_chunk=bank_chunk,
        query_chunk=query_chunk,
    )
    return {
        k: _ranked_classes(similarities[:, :k], voters[:, :k], num_classes, temperature)
        for k in neighbours
    }


def nearest(
    bank: np.ndarray,
    numbers: np.ndarray,
    queries: np.ndarray,
    count: int,
    *,
    mesh: Mesh | None = None,
    bank_chunk: int = BANK_CHUNK,
    query_chunk: int = QUERY_CHUNK,
) -> tuple[np.ndarray, np.ndarray]:
    """(cosine similarities, numbers) of the ``count`` nearest of a bank, nearest first.

    Equally similar ones come in the order of the bank.

    Args:
      bank: [n, D], normalised here.
      numbers: int [n], none of them negative: what to tell the rows of the bank by.
      queries: [m, D], normalised here.
      count: k.
      mesh, bank_chunk, query_chunk: as in ``knn_rankings``.

    Returns:
      (float32 [m, k], int32 [m, k]); beyond the n that there are the similarities are -inf.
    """
    rows_asked, queries = len(queries), unit_rows(np.asarray(queries, np.float32))
    mesh = mesh or Mesh(np.array(jax.devices()[:1]), ("batch",))
    by_query = NamedSharding(mesh, PartitionSpec(None, "batch"))
    replicated = NamedSharding(mesh, PartitionSpec())

    rows = mesh.size * min(query_chunk, -(-rows_asked // mesh.size))
    queries = jax.device_put(_in_chunks(queries, rows), by_query)
    best = jax.device_put(_nobody_yet((*queries.shape[:2], count)), by_query)
    # As many chunks as needed, of equal size: hardly any padding.
    bank_chunk = -(-len(numbers) // -(-len(numbers) // bank_chunk))
    for start in range(0, len(numbers), bank_chunk):
        features = np.asarray(bank[start : start + bank_chunk], np.float32)
        features = _padded(unit_rows(features), bank_chunk, 0)
        numbered = _padded(numbers[start : start + bank_chunk], bank_chunk, -1)
        previous = best
        best = _merge_chunk(best, queries, *jax.device_put((features, numbered), replicated))
        jax.block_until_ready(previous)  # else all chunks would wait on the device at once
    similarities, found = _on_host(best, replicated)
    return similarities[:rows_asked], found[:rows_asked]


def _nobody_yet(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(similarities, numbers) before the first chunk."""
    return np.full(shape, -np.inf, np.float32), np.zeros(shape, np.int32)


@jax.jit
def _merge_chunk(best, queries, bank, bank_numbers):
    """The k best of the k so far and one chunk of the bank.

    Args:
      best: (similarities [c, q, k], numbers [c, q, k]), descending.
      queries: [c, q, D].
      bank: [b, D].
      bank_numbers: int [b], -1 for padding.

    Returns:
      as ``best``.
    """

    def merge(chunk):
        similarities, numbers, query = chunk
        new = jnp.einsum("qd,bd->qb", query, bank, precision=jax.lax.Precision.HIGHEST)
        new = jnp.where(bank_numbers >= 0, new, -jnp.inf)
        # The earlier ones first, for top_k prefers the lower index among equals.
        new_numbers = jnp.broadcast_to(bank_numbers, new.shape)
        similarities, order = largest(
            jnp.concatenate([similarities, new], axis=1), similarities.shape[1]
        )
        joined = jnp.concatenate([numbers, new_numbers], axis=1)
        return similarities, jnp.take_along_axis(joined, order, axis=1)

    return jax.lax.map(merge, (*best, queries))


def largest(values: jax.Array, count: int, group: int = 16) -> tuple[jax.Array, jax.Array]:
    """``jax.lax.top_k`` of long rows, to the bit and in the same order among equals, but faster.

    The k largest of a row lie in the k groups of neighbours with the largest maxima, which are
    found among far fewer numbers.

    Args:
      values: [m, n].
      count: k.
      group: numbers in a group.

    Returns:
      (the k largest of each row, their places int32), both [m, k], descending.
    """
    rows, length = values.shape
    if length < 4 * group * count:
        return jax.lax.top_k(values, count)
    grouped = jnp.pad(values, ((0, 0), (0, -length % group)), constant_values=-jnp.inf)
    grouped = grouped.reshape(rows, -1, group)
    # In their order, for what is equal has to stay in the order of the row.
    groups = jnp.sort(jax.lax.top_k(grouped.max(axis=2), count)[1], axis=1)
    candidates = jnp.take_along_axis(grouped, groups[:, :, None], axis=1).reshape(rows, -1)
    found, places = jax.lax.top_k(candidates, count)
    return found, jnp.take_along_axis(groups, places // group, axis=1) * group + places % group


def _on_host(best, replicated: NamedSharding) -> tuple[np.ndarray, np.ndarray]:
    """(similarities [rows, K], numbers [rows, K]) of all queries, whole in every process."""
    if jax.process_count() > 1:
        best = jax.jit(lambda x: x, out_shardings=replicated)(best)
    return tuple(np.asarray(x).reshape(-1, x.shape[-1]) for x in best)


def _ranked_classes(
    similarities: np.ndarray, labels: np.ndarray, num_classes: int, temperature: float | None
) -> np.ndarray:
    """Classes by their votes, int32 [m, min(5, num_classes)].

    On the host, for a vote is a sum of at most a few hundred numbers: compiling it would take
    longer than counting.

    Args:
      similarities: [m, k], -inf where there was no neighbour.
      labels: int [m, k].
    """
    ranking = np.empty((len(labels), min(_RANKED, num_classes)), np.int32)
    for start in range(0, len(labels), QUERY_CHUNK):
        near = similarities[start : start + QUERY_CHUNK].astype(np.float64)
        weights = np.isfinite(near) if temperature is None else np.exp(near / temperature)
        rows = np.arange(len(near))
        places = rows[:, None] * num_classes + labels[start : start + QUERY_CHUNK]
        votes = np.bincount(places.ravel(), weights.ravel(), minlength=len(near) * num_classes)
        votes = votes.reshape(len(near), num_classes)
        for rank in range(ranking.shape[1]):
            best = np.argmax(votes, axis=1)  # the lower one among equals
            ranking[start + rows, rank] = best
            votes[rows, best] = -np.inf
    return ranking


def _labelled(
    features: np.ndarray, labels: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    features, labels = np.asarray(features), np.asarray(labels, np.int32)
    known = labels >= 0
    if not known.any():
        raise ValueError("k-NN needs labelled examples in both sets")
    if labels.max() >= num_classes:
        raise ValueError(f"label {labels.max()} with num_classes={num_classes}")
    # Not a copy where nothing is left out: the bank may be larger than half the memory.
    return (features, labels) if known.all() else (features[known], labels[known])


def _padded(array: np.ndarray, rows: int, fill: float) -> np.ndarray:
    widths = [(0, rows - len(array))] + [(0, 0)] * (array.ndim - 1)
    return np.pad(array, widths, constant_values=fill)


def _in_chunks(array: np.ndarray, rows: int, fill: float = 0) -> np.ndarray:
    """[m, ...] -> [chunks, rows, ...], the last chunk padded."""
    chunks = -(-len(array) // rows)
    return _padded(array, chunks * rows, fill).reshape(chunks, rows, *array.shape[1:])
