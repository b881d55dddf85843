"""Images of the same class among the nearest: every image is a query, the others the gallery."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from repre_jax.evaluation.features import unit_rows

_QUERY_CHUNK = 128


def retrieval_scores(
    features: np.ndarray, labels: np.ndarray, *, ranks: Sequence[int] = (1, 5, 10), mesh: Mesh
) -> dict[str, float]:
    """Recall at ranks and mean average precision of cosine retrieval, the query left out.

    Recall at r: share of queries with an image of their class among the r nearest. Average
    precision of a query: mean, over the images of its class, of the precision at their rank.
    Images with an unknown label, or alone in their class, are no queries; unknown ones are not in
    the gallery either. The memory grows with the number of images, a chunk of queries at a time.

    Args:
      features: [n, D].
      labels: int [n], -1 for unknown.
      ranks: r.
      mesh: its devices share the queries out.

    Returns:
      {"recall@r": ..., "mean_average_precision", "queries"}.

    Raises:
      ValueError: no two images have the same label.
    """
    known = np.flatnonzero(np.asarray(labels) >= 0)
    features, labels = np.asarray(features)[known], np.asarray(labels)[known].astype(np.int32)
    features = unit_rows(features)
    members = np.bincount(labels, minlength=1)[labels] if len(labels) else np.zeros(0)
    is_query = members > 1
    if not is_query.any():
        raise ValueError("retrieval needs two images of the same class")
    rows = _QUERY_CHUNK * mesh.size
    chunks = -(-len(labels) // rows)
    # Padding points past the end, where no row is.
    index = np.arange(chunks * rows, dtype=np.int32).reshape(chunks, rows)
    spread = NamedSharding(mesh, PartitionSpec(None, "batch"))
    everywhere = NamedSharding(mesh, PartitionSpec())
    gallery = jax.device_put((features.astype(np.float32), labels), everywhere)
    ranks_of = jax.jit(_ranks, out_shardings=everywhere)
    firsts, precisions = ranks_of(*gallery, jax.device_put(index, spread))
    firsts, precisions = (np.asarray(x).reshape(-1)[: len(labels)] for x in (firsts, precisions))
    scores = {f"recall@{r}": float(np.mean(firsts[is_query] < r)) for r in ranks}
    return scores | {
        "mean_average_precision": float(np.mean(precisions[is_query])),
        "queries": int(is_query.sum()),
    }


def _ranks(features: jax.Array, labels: jax.Array, index: jax.Array):
    """(rank of the first image of the same class, average precision), [chunks, rows] each."""
    places = jnp.arange(1, len(labels) + 1)

    def of_chunk(queries):
        at = jnp.minimum(queries, len(labels) - 1)
        similarities = jnp.matmul(features[at], features.T, precision=jax.lax.Precision.HIGHEST)
        itself = jnp.arange(len(labels)) == at[:, None]
        order = jnp.argsort(jnp.where(itself, jnp.inf, -similarities), axis=1, stable=True)
        relevant = (labels[order] == labels[at][:, None]) & (order != at[:, None])
        found = jnp.cumsum(relevant, axis=1)
        precision = jnp.sum(relevant * found / places, axis=1) / jnp.maximum(found[:, -1], 1)
        return jnp.argmax(relevant, axis=1), precision

    return jax.lax.map(of_chunk, index)
