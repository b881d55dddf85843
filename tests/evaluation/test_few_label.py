import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from repre_jax.evaluation.few_label import few_label_accuracy


def digits():
    images, labels = load_digits(return_X_y=True)
    return images[:1200], labels[:1200], images[1200:], labels[1200:]


def test_raw_digits():
    result = few_label_accuracy(*digits())
    assert 0.75 < result["mean"] < 0.92
    assert 0 < result["std"] < 0.06
    assert result["protocol"].startswith("5 labels a class, nearest labelled neighbour by cosine")
    assert "mean of 10 draws" in result["protocol"]


def test_all_labels_is_the_ordinary_nearest_neighbour():
    train, train_labels, val, val_labels = digits()
    classifier = KNeighborsClassifier(1, metric="cosine", algorithm="brute")
    expected = classifier.fit(train, train_labels).score(val, val_labels)
    result = few_label_accuracy(*digits(), labels_per_class=10**6, draws=2)
    assert result["mean"] == pytest.approx(expected, abs=1e-9)
    assert result["std"] == 0


def test_draws_depend_on_the_seed_and_not_on_the_features():
    train, train_labels, val, val_labels = digits()
    first = few_label_accuracy(train, train_labels, val, val_labels)
    assert few_label_accuracy(train * 3, train_labels, val * 3, val_labels) == first
    assert few_label_accuracy(train, train_labels, val, val_labels, seed=1) != first


def test_draws_labels_per_class_from_every_class():
    """Class 1 has a single example; without it, its queries could not be right."""
    train = np.eye(3)[[0, 0, 0, 1, 2, 2]]
    result = few_label_accuracy(
        train, np.array([0, 0, 0, 1, -1, -1]), np.eye(3), np.array([0, 1, -1]), draws=3
    )
    assert result["mean"] == 1
    with pytest.raises(ValueError, match="labelled"):
        few_label_accuracy(train, -np.ones(6), np.eye(3), np.zeros(3))
