"""Centroids of patches: of how many they are, what could not be read, and where they lie."""

import re

import numpy as np
import pytest
from folders import write_image

from repre_jax.config_files import read_config
from repre_jax.errors import UserError
from repre_jax.patch_clusters import cluster_patches


def config_of(folder, **changes):
    config = read_config("patch_clusters:smoke")
    config.data.update({"source": "folder", "path": str(folder)})
    config.update({"patch_size": 4, "image_size": 16, "vocabulary": 4, "patches_per_image": 5})
    config.update(changes)
    return config


@pytest.fixture
def folder(tmp_path):
    """Seven images of different brightness, one of which cannot be read."""
    rng = np.random.default_rng(0)
    for number in range(6):
        write_image(tmp_path / "images" / f"{number}.png", rng.integers(0, 256, (20, 30, 3)))
    (tmp_path / "images" / "broken.png").write_bytes(b"")
    return tmp_path / "images"


def test_every_patch_counts_and_bad_files_are_told(folder, tmp_path, capsys):
    config = config_of(folder, batch_size=4)
    path = cluster_patches(config, tmp_path / "run")
    out = capsys.readouterr().out
    assert f"4 centroids of 30 patches: {path}" in out
    assert re.search(r"1 images could not be read, such as .*broken\.png \(the file is e", out)
    with np.load(path) as made:
        assert made["centroids"].shape == (4, 48) and np.isfinite(made["centroids"]).all()
        assert str(made["made_of"]).startswith("image folder")
    assert [file.name for file in path.parent.iterdir()] == ["centroids.npz"]


def test_epochs_add_up_to_enough_patches(folder, tmp_path):
    with pytest.raises(UserError, match="gives 30 patches, fewer than three for each of vocab"):
        cluster_patches(config_of(folder, vocabulary=20), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    cluster_patches(config_of(folder, vocabulary=20, epochs=2), tmp_path / "run")


def test_sizes_that_cannot_be(folder, tmp_path):
    told = {0: "image_size=0 must be at least 1", 18: "not a multiple of patch_size=4"}
    for size, words in told.items():
        with pytest.raises(UserError, match=words):
            cluster_patches(config_of(folder, image_size=size), tmp_path / "run")
