"""Features on disk: reused, whole or absent, made anew when damaged."""

import numpy as np
import pytest

from repre_jax.evaluation import feature_cache
from repre_jax.evaluation.feature_cache import cached_features
from repre_jax.evaluation.features import Features
from repre_jax.runs.commit import code_commit

FEATURES = Features(
    np.arange(12, dtype=np.float32).reshape(4, 3),
    np.array([0, 1, 1, -1], np.int32),
    np.arange(4, dtype=np.int32),
)


def never():
    raise AssertionError("the features were there")


def assert_same(got, commit=None):
    features, made_by = got
    for ours, expected in zip(features, FEATURES, strict=True):
        np.testing.assert_array_equal(ours, expected)
    assert made_by == (commit or code_commit() or "unknown")


def test_computed_once(tmp_path):
    folder = tmp_path / "a" / "features"
    assert_same(cached_features(folder, 4, lambda: FEATURES))
    assert_same(cached_features(folder, 4, never))
    assert [path.name for path in folder.parent.iterdir()] == ["features"]


def test_kept_features_name_the_code_that_made_them(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(feature_cache, "code_commit", lambda: "long ago")
        cached_features(tmp_path / "f", 4, lambda: FEATURES)
    assert_same(cached_features(tmp_path / "f", 4, never), "long ago")


@pytest.mark.parametrize("damage", ["cut", "missing", "mixed"])
def test_damaged_features_are_made_anew(tmp_path, damage):
    cached_features(tmp_path / "f", 4, lambda: FEATURES)
    path = tmp_path / "f" / "features.npy"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-8])
    elif damage == "missing":
        path.unlink()
    else:
        np.save(path, FEATURES[0][:2])
    assert_same(cached_features(tmp_path / "f", 4, lambda: FEATURES))
    assert_same(cached_features(tmp_path / "f", 4, never))


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(KeyboardInterrupt):
        cached_features(tmp_path / "f", 4, lambda: FEATURES)
    assert list(tmp_path.iterdir()) == []


def test_features_of_fewer_images_are_not_kept(tmp_path):
    assert_same(cached_features(tmp_path / "f", 5, lambda: FEATURES))
    assert list(tmp_path.iterdir()) == []
