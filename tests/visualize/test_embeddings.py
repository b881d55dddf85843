"""Features of some classes in two dimensions: which images, and that a seed is a picture."""

import cv2
import numpy as np
import pytest

from repre_jax.visualize import embeddings
from repre_jax.visualize.embeddings import (
    in_two_dimensions,
    save_embeddings,
    some_images_of_some_classes,
)

RNG = np.random.default_rng(0)


def test_classes_and_images_are_drawn_by_the_seed():
    labels = np.repeat(np.arange(30), 10)
    labels[labels == 7] = -1
    draws = [
        some_images_of_some_classes(labels, classes=20, images=6, seed=seed) for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(draws[0], draws[1])
    for chosen in draws:
        found, counts = np.unique(labels[chosen], return_counts=True)
        assert len(found) == 20 and (counts == 6).all() and -1 not in found
        assert (np.diff(chosen) > 0).all()
    assert set(labels[draws[0]]) != set(labels[draws[2]])
    few = some_images_of_some_classes(labels[:25], classes=20, images=50, seed=0)
    np.testing.assert_array_equal(few, np.arange(25))


def test_clusters_stay_together_and_a_seed_is_a_picture():
    labels = np.repeat(np.arange(3), 20)
    features = 4 * RNG.normal(size=(3, 16))[labels] + RNG.normal(size=(60, 16))
    first, second = (in_two_dimensions(features, seed=0) for _ in range(2))
    for kind in ("PCA", "t-SNE"):
        np.testing.assert_array_equal(first[kind], second[kind])
        distances = np.linalg.norm(first[kind][:, None] - first[kind], axis=-1)
        np.fill_diagonal(distances, np.inf)
        assert (labels[distances.argmin(axis=1)] == labels).mean() > 0.9
    # The length of a feature is no part of it.
    scaled = in_two_dimensions(features * RNG.uniform(1, 3, (60, 1)), seed=0)
    np.testing.assert_allclose(np.abs(scaled["PCA"]), np.abs(first["PCA"]), atol=1e-6)


@pytest.mark.filterwarnings("error")
def test_collapsed_features_are_a_picture_too():
    points = in_two_dimensions(np.ones((10, 4)), seed=0)
    assert all(np.isfinite(x).all() for x in points.values())


def test_every_class_of_twenty_has_its_own_colour_or_marker(tmp_path):
    labels = np.repeat(np.arange(20), 2)
    points = {"PCA": RNG.normal(size=(40, 2)), "t-SNE": RNG.normal(size=(40, 2))}
    names = [f"class {k}" for k in range(20)]
    path = tmp_path / "embedding.png"
    save_embeddings(path, "Features", [("a", points), ("b", points)], labels, names)
    height, width = cv2.imread(str(path)).shape[:2]
    assert width == 1000 and 900 < height < 1300


def test_every_class_is_in_the_legend_by_its_name(monkeypatch):
    figures = []
    monkeypatch.setattr(embeddings, "save", lambda figure, path: figures.append(figure))
    names = ["_background", "a $5 and a $10 note", "a cat"]
    points = {"PCA": RNG.normal(size=(6, 2))}
    points["t-SNE"] = points["PCA"]
    save_embeddings("x.png", "", [("a", points)], np.repeat(np.arange(3), 2), names)
    (legend,) = figures[0].legends
    assert [text.get_text() for text in legend.get_texts()] == names
