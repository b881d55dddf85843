"""Retrieval against a plain reading, query by query."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from sklearn.metrics import average_precision_score

from repre_jax.evaluation import retrieval
from repre_jax.evaluation.retrieval import retrieval_scores


def mesh_of(devices):
    return Mesh(np.array(jax.devices()[:devices]), ("batch",))


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    labels = np.append(rng.integers(6, size=150), [6, -1, -1]).astype(np.int32)  # 6 is alone
    centres = rng.normal(size=(8, 12))
    return (centres[labels] + 1.3 * rng.normal(size=(153, 12))).astype(np.float32), labels


@pytest.mark.parametrize("devices", [1, 8])
def test_equals_the_plain_reading(data, devices, monkeypatch):
    monkeypatch.setattr(retrieval, "_QUERY_CHUNK", 16)
    features, labels = data
    scores = retrieval_scores(features, labels, ranks=(1, 5), mesh=mesh_of(devices))
    features, labels = features[:151], labels[:151]
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    hits, precisions = {1: 0, 5: 0}, []
    for query in range(150):
        others = np.arange(151) != query
        similarities, same = unit[others] @ unit[query], labels[others] == labels[query]
        order = np.argsort(-similarities)
        for rank in hits:
            hits[rank] += same[order][:rank].any()
        precisions.append(average_precision_score(same, similarities))
    assert scores["queries"] == 150
    assert scores["recall@1"] == hits[1] / 150
    assert scores["recall@5"] == hits[5] / 150
    assert scores["mean_average_precision"] == pytest.approx(np.mean(precisions), abs=1e-5)
    assert 0.2 < scores["recall@1"] < 0.9


def test_no_two_of_a_class():
    with pytest.raises(ValueError, match="two images of the same class"):
        retrieval_scores(np.eye(3), np.array([0, 1, -1]), mesh=mesh_of(1))
