"""Weighted k-NN against a plain numpy reading of the protocol."""

import jax
import numpy as np
import pytest
from golden.cases_probe import KNN, NEIGHBOURS, TEMPERATURE, knn_features
from golden.compare import FOLDER
from jax.sharding import Mesh
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from repre_jax.evaluation import knn
from repre_jax.evaluation.knn import knn_accuracies, knn_accuracy, knn_rankings

GOLDEN = dict(np.load(FOLDER / "eval_knn.npz"))


def reference(train, train_labels, val, val_labels, *, k, num_classes, temperature=0.07):
    """Stable sort by similarity, then votes, written out example by example.

    With fewer than five neighbours the first k classes count (facebookresearch/dino, eval_knn.py).
    """
    train = train / np.linalg.norm(train, axis=1, keepdims=True)
    val = val / np.linalg.norm(val, axis=1, keepdims=True)
    top1 = top5 = 0
    for query, label in zip(val, val_labels, strict=True):
        similarities = train @ query
        votes = np.zeros(num_classes)
        for i in np.argsort(-similarities, kind="stable")[:k]:
            votes[train_labels[i]] += np.exp(similarities[i] / temperature)
        ranking = np.argsort(-votes, kind="stable")
        top1 += ranking[0] == label
        top5 += label in ranking[: min(5, k)]
    return {"top1": top1 / len(val), "top5": top5 / len(val)}


def clusters(n, m, num_classes=10, width=24, noise=1.2, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(num_classes, width))
    labels = rng.integers(num_classes, size=n + m).astype(np.int32)
    features = (centres[labels] + noise * rng.normal(size=(n + m, width))).astype(np.float32)
    return features[:n], labels[:n], features[n:], labels[n:]


def mesh_of(devices):
    return Mesh(np.array(jax.devices()[:devices]), ("batch",))


@pytest.mark.parametrize(
    ("neighbours", "bank_chunk", "query_chunk"),
    [
        ((1, 3, 10, 20, 200), 8192, 1024),
        ((1, 3, 10, 20, 200), 64, 16),
        ((1, 3, 10, 20, 200), 37, 11),
        ((3,), 37, 11),
    ],
)
def test_equals_the_reference(neighbours, bank_chunk, query_chunk):
    data = clusters(501, 103)
    chunks = {"bank_chunk": bank_chunk, "query_chunk": query_chunk}
    accuracies = knn_accuracies(*data, neighbours=neighbours, num_classes=10, **chunks)
    assert tuple(accuracies) == neighbours
    for k, got in accuracies.items():
        assert got == pytest.approx(reference(*data, k=k, num_classes=10), abs=1e-9), k
        assert 0.3 < got["top1"] < 0.99, "a test at 0 or 1 would see nothing"


@pytest.mark.parametrize("devices", [2, 8])
def test_one_device_is_eight(devices):
    data = clusters(300, 101, noise=2.0)
    one = knn_accuracy(*data, num_classes=10, mesh=mesh_of(1), bank_chunk=128, query_chunk=32)
    more = knn_accuracy(
        *data, num_classes=10, mesh=mesh_of(devices), bank_chunk=128, query_chunk=32
    )
    assert one == more


def test_equals_sklearn_on_digits():
    images, labels = load_digits(return_X_y=True)
    labels = labels.astype(np.int32)
    train, val = slice(0, 1200), slice(1200, None)
    unit = images / np.linalg.norm(images, axis=1, keepdims=True)
    # Cosine distance is 1 - similarity; exp(1 / t) is common to all votes.
    classifier = KNeighborsClassifier(
        20, metric="cosine", algorithm="brute", weights=lambda d: np.exp(-d / 0.07)
    ).fit(unit[train], labels[train])
    expected = classifier.score(unit[val], labels[val])
    got = knn_accuracy(images[train], labels[train], images[val], labels[val], num_classes=10)
    assert got["top1"] == pytest.approx(expected, abs=1e-9)
    assert got["top1"] > 0.9


def test_predictions_are_those_of_dinos_eval_knn():
    data = knn_features()
    rankings = knn_rankings(
        data["train_features"],
        data["train_labels"],
        data["test_features"],
        num_classes=KNN["classes"],
        neighbours=NEIGHBOURS,
        temperature=TEMPERATURE,
        bank_chunk=256,
        query_chunk=100,
    )
    accuracies = knn_accuracies(
        *data.values(), num_classes=KNN["classes"], neighbours=NEIGHBOURS, temperature=TEMPERATURE
    )
    for k in NEIGHBOURS:
        official = GOLDEN[f"{k}/predictions"]
        np.testing.assert_array_equal(rankings[k][:, 0], official[:, 0])
        for name in ("top1", "top5"):
            assert 100 * accuracies[k][name] == pytest.approx(GOLDEN[f"{k}/{name}"])
    assert len({accuracies[k]["top1"] for k in NEIGHBOURS}) > 2, "k must matter"


def test_equal_votes_are_those_of_sklearn():
    train, train_labels, val, _ = clusters(501, 103)
    options = {"neighbours": (10, 20, 100, 200), "temperature": None, "bank_chunk": 64}
    rankings = knn_rankings(train, train_labels, val, num_classes=10, **options)
    for k, ranking in rankings.items():
        classifier = KNeighborsClassifier(k, metric="cosine", algorithm="brute")
        expected = classifier.fit(train, train_labels).predict(val)
        np.testing.assert_array_equal(ranking[:, 0], expected, err_msg=f"{k} neighbours")


def test_equal_votes_when_there_are_fewer_neighbours_than_k():
    train, val = np.eye(4, dtype=np.float32)[:3], np.ones((1, 4), np.float32)
    ranking = knn_rankings(
        train, [2, 2, 1], val, num_classes=3, neighbours=(10,), temperature=None, bank_chunk=2
    )[10]
    assert ranking.tolist() == [[2, 1, 0]]


@pytest.mark.parametrize("k", [1, 2, 4])
def test_classes_without_a_vote_are_not_among_the_first_five(k):
    """Every neighbour is of class 5: lower classes, which have no vote, are ranked behind it."""
    train = np.ones((10, 4), np.float32)
    train[:6] *= [1, -1, 1, -1]
    labels = [0, 1, 2, 3, 4, 6, 5, 5, 5, 5]
    val = np.ones((2, 4), np.float32)
    got = knn_accuracy(train, labels, val, [5, k - 1], k=k, num_classes=7)
    assert got == {"top1": 0.5, "top5": 0.5}


def test_more_neighbours_than_training_examples():
    """All vote, and no class that has no example comes among the first."""
    data = clusters(501, 103)
    few = np.array([np.flatnonzero(data[1] == c)[0] for c in range(6)])
    train, labels = data[0][few], data[1][few]
    more, all_of_them = (
        knn_accuracies(train, labels, *data[2:], num_classes=10, neighbours=(k,))[k]
        for k in (200, 6)
    )
    assert more == all_of_them
    assert more["top1"] < more["top5"] < 1


def test_labels_with_gaps():
    """Three of a thousand classes: the accuracy of three, without the first five of three."""
    data = clusters(200, 60, num_classes=3)
    numbers = np.array([7, 400, 999], np.int32)
    got = knn_accuracy(data[0], numbers[data[1]], data[2], numbers[data[3]], num_classes=1000)
    assert got == knn_accuracy(*data, num_classes=3)
    assert set(got) == {"top1"}


def test_k_below_one_is_an_error():
    with pytest.raises(ValueError, match="at least 1"):
        knn_accuracies(*clusters(20, 5), num_classes=10, neighbours=(0,))


def test_ties_go_to_the_earlier_neighbour_and_the_lower_class():
    axes = np.eye(4, dtype=np.float32)
    # Four copies of one direction in four chunks: k = 1 must take the first of them.
    train = np.stack([axes[1], axes[0], axes[0], axes[0]])
    labels = np.array([0, 3, 1, 2], np.int32)
    for bank_chunk in (1, 2, 4):
        result = knn_accuracy(
            train, labels, axes[:1], [3], k=1, num_classes=4, bank_chunk=bank_chunk
        )
        assert result == {"top1": 1.0}
        # All three copies vote alike: the lowest of their classes wins.
        result = knn_accuracy(
            train, labels, axes[:1], [1], k=3, num_classes=4, bank_chunk=bank_chunk
        )
        assert result == {"top1": 1.0}


def test_padding_never_votes():
    """Opposite neighbours are still better than the zeros that fill a chunk."""
    train = -np.ones((3, 8), np.float32)
    val = np.ones((5, 8), np.float32)
    labels = np.array([2, 2, 1], np.int32)
    result = knn_accuracy(
        train, labels, val, [2, 2, 2, 2, 1], k=20, num_classes=3, bank_chunk=2, query_chunk=2
    )
    assert result == {"top1": 0.8}


def test_unknown_labels_neither_vote_nor_count():
    train, train_labels, val, val_labels = clusters(200, 60)
    expected = knn_accuracy(train, train_labels, val, val_labels, num_classes=10)
    unknown = np.full(7, -1, np.int32)
    got = knn_accuracy(
        np.concatenate([val[:7], train]),
        np.concatenate([unknown, train_labels]),
        np.concatenate([val, train[:7]]),
        np.concatenate([val_labels, unknown]),
        num_classes=10,
    )
    assert got == expected
    with pytest.raises(ValueError, match="labelled"):
        knn_accuracy(train, -np.ones(200, int), val, val_labels, num_classes=10)
    with pytest.raises(ValueError, match="num_classes=3"):
        knn_accuracy(train, train_labels, val, val_labels, num_classes=3)


def test_one_compilation_whatever_the_number_of_chunks():
    knn._merge_chunk.clear_cache()
    data = clusters(1000, 100)
    knn_accuracy(*data, num_classes=10, bank_chunk=64, query_chunk=16)
    knn_accuracy(*data, num_classes=10, bank_chunk=64, query_chunk=16)
    assert knn._merge_chunk._cache_size() == 1
