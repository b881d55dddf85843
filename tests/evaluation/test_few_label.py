import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from repre_jax.errors import UserError
from repre_jax.evaluation import few_label
from repre_jax.evaluation.few_label import (
    draw_labelled,
    few_label_accuracy,
    few_label_scores,
    fit_logistic,
)


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


def test_budgets():
    labels = np.repeat([0, 1, 2, -1], [300, 49, 3, 20])
    chosen = draw_labelled(labels, "1%", seed=0, draw=0)
    assert np.bincount(labels[chosen]).tolist() == [3, 1, 1]
    chosen = draw_labelled(labels, "10%", seed=0, draw=0)
    assert np.bincount(labels[chosen]).tolist() == [30, 5, 1]
    assert np.bincount(labels[draw_labelled(labels, "5", 0, 0)]).tolist() == [5, 5, 3]
    assert len(set(chosen)) == len(chosen)
    again, other = (draw_labelled(labels, "10%", 0, draw) for draw in (0, 1))
    np.testing.assert_array_equal(again, chosen)
    assert set(other) != set(chosen)
    for wrong in ("many", "0", "-1%", "101%", "1.5"):
        with pytest.raises(UserError, match="must be a share such as 1% or a number"):
            draw_labelled(labels, wrong, 0, 0)


def test_three_classifiers_on_the_same_draws():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(6, 16))
    labels = rng.integers(6, size=700).astype(np.int32)
    features = (centres[labels] + 1.4 * rng.normal(size=(700, 16))).astype(np.float32)
    data = (features[:500], labels[:500], features[500:], labels[500:])
    options = {"draws": 2, "seed": 0, "neighbours": 20, "temperature": 0.07, "strength": 0.0025}
    few = few_label_scores(*data, budget="2", **options)
    many = few_label_scores(*data, budget="50%", **options)
    nearest = few_label_accuracy(*data, labels_per_class=2, draws=2, seed=0)
    assert few["nearest"]["mean"] == pytest.approx(nearest["mean"])
    assert few["labels"] == 12
    for name in ("nearest", "knn", "logistic"):
        assert few[name]["mean"] < many[name]["mean"] - 0.02 < 0.95, name


def test_logistic_regression_converges_with_many_classes():
    """At the optimum the gradient of the sum of the losses is minus that of the penalty."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(300), 2)
    centres = rng.normal(size=(300, 24))
    features = (centres[labels] + rng.normal(size=(600, 24))).astype(np.float32)
    weights = fit_logistic(features, labels, strength=0.0025).coef_.T
    rows = features - features.mean(axis=1, keepdims=True)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    logits = rows @ weights
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    gradient = rows.T @ (shares - np.eye(300)[labels])
    np.testing.assert_allclose(gradient, -0.0025 * weights, atol=1e-4)
    assert np.abs(0.0025 * weights).max() > 0.01


def test_logistic_regression_is_at_the_optimum_of_its_formula(monkeypatch):
    """Weights and not only accuracies, which hardly depend on the strength of the penalty."""
    fitted = []

    def noted_fit(*arguments):
        fitted.append(fit_logistic(*arguments))
        return fitted[-1]

    monkeypatch.setattr(few_label, "fit_logistic", noted_fit)
    rng = np.random.default_rng(1)
    features = rng.normal(size=(60, 5)).astype(np.float32)
    labels = np.arange(60) % 3
    rows = features - features.mean(axis=1, keepdims=True)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    best = minimise_logistic(rows, labels, strength=0.5)
    expected = np.mean(np.argmax(rows @ best, axis=1) == labels)
    scores = few_label_scores(
        features,
        labels,
        features,
        labels,
        budget="20",
        draws=1,
        seed=0,
        neighbours=1,
        temperature=0.07,
        strength=0.5,
    )
    assert scores["logistic"]["mean"] == pytest.approx(expected)
    (classifier,) = fitted
    np.testing.assert_allclose(classifier.coef_.T, best, atol=1e-3)
    assert 0.34 < expected < 0.9


def minimise_logistic(rows, labels, strength):
    """Gradient descent on sum of losses + strength / 2 |W|^2."""
    weights, targets = np.zeros((rows.shape[1], 3)), np.eye(3)[labels]
    for _ in range(5000):
        logits = rows @ weights
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        weights -= 0.02 * (rows.T @ (shares - targets) + strength * weights)
    return weights
