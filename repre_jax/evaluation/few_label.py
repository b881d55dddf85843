"""Accuracy with a handful of labels a class: what the features separate by themselves.

The nearest labelled neighbour by cosine has nothing to tune, so pixels, random and trained encoders
meet on equal terms whatever their width, scale and offset. Weighted k-NN and logistic regression
say what the field reports.
"""

from typing import Any

import numpy as np
from jax.sharding import Mesh

from repre_jax.errors import UserError
from repre_jax.evaluation.features import unit_rows
from repre_jax.evaluation.knn import knn_accuracies
from repre_jax.evaluation.task import SHARED_RANGES, Evaluation, Task
from repre_jax.ranges import AT_LEAST_ONE, POSITIVE


def measure_few_label(evaluation: Evaluation) -> dict[str, Any]:
    """Accuracy from 1 %, 10 % or a few labels a class, by k-NN and by logistic regression."""
    config = evaluation.config
    budgets = [str(budget) for budget in config.budgets]
    if not budgets:
        raise UserError("budgets is empty; for example --config.budgets=\"('1%','5')\".")
    for budget in budgets:
        check_budget(budget)
    train, val = evaluation.features(config.feature)
    scores = {
        budget: few_label_scores(
            *train[:2],
            *val[:2],
            budget=budget,
            draws=config.draws,
            seed=config.seed,
            neighbours=config.neighbours,
            temperature=config.temperature,
            strength=config.strength,
            mesh=evaluation.mesh,
        )
        for budget in budgets
    }
    reported = budgets[0]
    logistic = scores[reported]["logistic"]
    deviation = logistic.get("std")  # of several draws
    spread = "" if deviation is None else f" +- {deviation:.2%}"
    return {
        "metric": "top1",
        "value": logistic["mean"],
        "spread": deviation,
        "protocol": f"few_label_{reported}",
        "formula": (
            f"multinomial logistic regression on {reported} of the labels of each class, rows of "
            f"{config.feature} features centred and of unit length, sum of losses + "
            f"{config.strength:g} / 2 |W|^2, no intercept; mean and deviation of {config.draws} "
            "draws"
        ),
        "metrics": scores,
        "line": evaluation.line(
            f"few-label top-1 {logistic['mean']:.2%}{spread} (logistic regression, {reported} of "
            "the labels)"
        ),
    }


TASK = Task(
    measure=measure_few_label,
    ranges={
        **SHARED_RANGES,
        "draws": AT_LEAST_ONE,
        "neighbours": AT_LEAST_ONE,
        "temperature": POSITIVE,
        "strength": POSITIVE,
    },
)


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
    """Classifies the validation set by the nearest of a few labelled examples, several times over.

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
      {"mean", "std"?} of the accuracy over the draws, shares in [0, 1], and "protocol" in words.

    Raises:
      ValueError: one of the sets has no labelled example.
    """
    queries, targets = _known(val_features, val_labels)
    accuracies = []
    for draw in range(draws):
        chosen = draw_labelled(train_labels, str(labels_per_class), seed, draw)
        bank, labels = np.asarray(train_features)[chosen], np.asarray(train_labels)[chosen]
        accuracies.append(_nearest(bank, labels, queries, targets))
    return _spread(accuracies) | {
        "protocol": (
            f"{labels_per_class} labels a class, nearest labelled neighbour by cosine, "
            f"mean of {draws} draws"
        ),
    }


def few_label_scores(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    val_features: np.ndarray,
    val_labels: np.ndarray,
    *,
    budget: str,
    draws: int,
    seed: int,
    neighbours: int,
    temperature: float,
    strength: float,
    mesh: Mesh | None = None,
) -> dict[str, dict[str, float]]:
    """Accuracy of three classifiers on the same draws of labelled examples.

    Args:
      train_features, train_labels, val_features, val_labels: as in ``few_label_accuracy``.
      budget: "1%" of each class, at least one example; or examples a class, "5".
      draws: independent draws.
      seed: of the draws.
      neighbours: k of the weighted k-NN.
      temperature: of its votes.
      strength: of the L2 penalty strength / 2 |W|^2 beside the sum of the logistic losses.
      mesh: of the k-NN.

    Returns:
      {"nearest", "knn", "logistic"}, each {"mean", "std"?} over the draws; and "labels", the mean
      number of labelled examples.

    Raises:
      UserError: a budget that is neither; see ``check_budget``.
      ValueError: one of the sets has no labelled example.
    """
    queries, targets = _known(val_features, val_labels)
    classes = int(max(np.max(train_labels), targets.max())) + 1
    accuracies = {"nearest": [], "knn": [], "logistic": []}
    labelled = 0
    for draw in range(draws):
        chosen = np.sort(draw_labelled(train_labels, budget, seed, draw))
        bank, labels = np.asarray(train_features)[chosen], np.asarray(train_labels)[chosen]
        labelled += len(chosen) / draws
        sets = (bank, labels, queries, targets)
        knn = knn_accuracies(
            *sets,
            neighbours=(1, neighbours),
            num_classes=classes,
            temperature=temperature,
            mesh=mesh,
        )
        accuracies["nearest"].append(knn[1]["top1"])
        accuracies["knn"].append(knn[neighbours]["top1"])
        accuracies["logistic"].append(_logistic(*sets, strength))
    return {name: _spread(values) for name, values in accuracies.items()} | {"labels": labelled}


def draw_labelled(labels: np.ndarray, budget: str, seed: int, draw: int) -> np.ndarray:
    """Indices of the labelled examples of one draw, class by class; a function of its arguments.

    Raises:
      UserError: a budget that is neither a share such as "1%" nor a number.
      ValueError: no example has a label.
    """
    labels = np.asarray(labels)
    classes = np.unique(labels[labels >= 0])
    if not len(classes):
        raise ValueError("few-label accuracy needs labelled examples in both sets")
    rng = np.random.default_rng((seed, draw))
    chosen = []
    for c in classes:
        members = rng.permutation(np.flatnonzero(labels == c))
        chosen.append(members[: _examples(budget, len(members))])
    return np.concatenate(chosen)


def check_budget(budget: str) -> None:
    """Raises UserError unless it is a share such as "1%" or a number of labels."""
    _examples(budget, 1)


def _examples(budget: str, members: int) -> int:
    number, percent = budget.removesuffix("%"), budget.endswith("%")
    try:
        value = float(number) if percent else int(number)
    except ValueError:
        value = 0
    if not value > 0 or (percent and value > 100):
        raise UserError(f"budget {budget!r} must be a share such as 1% or a number of labels.")
    return max(1, round(members * value / 100)) if percent else value


def _known(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    features, labels = np.asarray(features), np.asarray(labels)
    if not (labels >= 0).any():
        raise ValueError("few-label accuracy needs labelled examples in both sets")
    return features[labels >= 0], labels[labels >= 0]


def _nearest(bank, labels, queries, targets) -> float:
    bank, queries = (np.asarray(x, np.float32) for x in (bank, queries))
    nearest = np.argmax(unit_rows(queries) @ unit_rows(bank).T, axis=1)
    return float(np.mean(labels[nearest] == targets))


def _logistic(bank, labels, queries, targets, strength: float) -> float:
    classifier = fit_logistic(bank, labels, strength)
    return float(np.mean(classifier.predict(_centred(queries)) == targets))


def fit_logistic(features: np.ndarray, labels: np.ndarray, strength: float) -> Any:
    """scikit-learn's logistic regression on features [n, D], at its optimum.

    As facebookresearch/msn, logistic_eval.py: rows centred and of unit length, no intercept.
    """
    from sklearn.linear_model import LogisticRegression

    # scikit-learn compares the tolerance with the gradient of the mean loss, which with a thousand
    # classes begins below 1e-3.
    classifier = LogisticRegression(C=1 / strength, fit_intercept=False, tol=1e-8, max_iter=2000)
    return classifier.fit(_centred(features), labels)


def _centred(rows: np.ndarray) -> np.ndarray:
    """float64: float32 gradients do not become as small as the tolerance."""
    rows = np.asarray(rows, np.float64)
    return unit_rows(rows - rows.mean(axis=1, keepdims=True))


def _spread(values: list[float]) -> dict[str, float]:
    """{"mean"}, and of several values "std", the deviation of the sample."""
    deviation = {"std": float(np.std(values, ddof=1))} if len(values) > 1 else {}
    return {"mean": float(np.mean(values))} | deviation
