"""The cache of decoded images equals decoding, and is rebuilt when it is damaged."""

import errno
import fcntl
import pickle

import cv2
import numpy as np
import pytest
from folders import folder_config, labelled_folder, write_image

from repre_jax.data.host.crops import resize
from repre_jax.data.sources import cache as image_cache
from repre_jax.data.sources import open_source
from repre_jax.data.sources.decode import BadImage
from repre_jax.errors import UserError


def cached_config(root, cache, size=16):
    return folder_config(root, cache_size=size, cache_path=str(cache))


def test_cache_equals_decode_and_resize(tmp_path, capfd):
    root, rng = tmp_path / "images", np.random.default_rng(0)
    shapes = [(20, 30), (40, 16), (8, 8), (1, 1), (16, 16)]
    for number, (height, width) in enumerate(shapes):
        (root / "x").mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        cv2.imwrite(str(root / "x" / f"{number}.png"), pixels)
    (root / "x" / "9.jpg").write_bytes(b"")
    plain = open_source(folder_config(root), "train")
    source = open_source(cached_config(root, tmp_path / "cache"), "train")
    assert "caching images" in capfd.readouterr().out
    expected = [(16, 24), (40, 16), (8, 8), (1, 1), (16, 16)]  # short side 16, never enlarged
    for index, shape in enumerate(expected):
        image = source.read(index)
        assert image.shape == (*shape, 3)
        np.testing.assert_array_equal(image, resize(plain.read(index), *shape, "bicubic"))
    with pytest.raises(BadImage, match="empty") as caught:
        source.read(5)
    assert caught.value.path == plain.name_of(5)
    assert source.labels is None and source.fingerprint == plain.fingerprint


def test_other_pixels_in_files_of_the_same_size_are_cached_anew(tmp_path):
    config = cached_config(tmp_path / "images", tmp_path / "cache")
    for value in (10, 200):
        write_image(tmp_path / "images" / "a.bmp", value)
        source = open_source(config, "train")
        assert (source.read(0) == value).all()
    before = source.fingerprint
    write_image(tmp_path / "images" / "a.bmp", 30)
    assert open_source(config, "train").fingerprint == before, "a run is told by names and sizes"


def test_cache_is_shared_and_rebuilt_when_damaged(tmp_path, monkeypatch):
    root, cache = labelled_folder(tmp_path / "images"), tmp_path / "cache"
    first = open_source(cached_config(root, cache), "train")
    images = [first.read(i).copy() for i in range(len(first))]
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    builds = []
    build = image_cache._build
    monkeypatch.setattr(image_cache, "_build", lambda *a: builds.append(1) or build(*a))

    def reopened():
        source = open_source(cached_config(root, cache), "train")
        np.testing.assert_array_equal([source.read(i) for i in range(len(source))], images)
        np.testing.assert_array_equal(source.labels, first.labels)
        assert source.class_names == ("cat", "dog")
        return len(builds)

    assert reopened() == 0
    pixels = (folder / "pixels.bin").read_bytes()
    (folder / "pixels.bin").write_bytes(pixels[:-1])
    assert reopened() == 1
    (folder / "index.npz").write_bytes(b"garbage")
    assert reopened() == 2
    (folder / "index.npz").unlink()
    assert reopened() == 3
    assert [path for path in cache.iterdir() if path.is_dir()] == [folder]  # nothing left over
    assert len(pickle.dumps(first)) < 5000  # no pixels go to a worker
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(first)).read(3), images[3])


def test_interrupted_build_leaves_no_cache(tmp_path, monkeypatch):
    root, cache = labelled_folder(tmp_path / "images"), tmp_path / "cache"

    def full_disk(*unused, **unused_too):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(image_cache.np, "savez", full_disk)
    with pytest.raises(UserError, match=r"No space left.*cache_path"):
        open_source(cached_config(root, cache), "train")
    assert [path for path in cache.iterdir() if path.is_dir()] == []
    monkeypatch.undo()
    monkeypatch.setattr(image_cache.shutil, "rmtree", lambda *a, **k: None)  # killed outright
    monkeypatch.setattr(image_cache.np, "savez", full_disk)
    with pytest.raises(UserError):
        open_source(cached_config(root, cache), "train")
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1
    monkeypatch.undo()
    assert len(open_source(cached_config(root, cache), "train")) == 6
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1  # the remains are gone


def test_cache_is_built_where_files_cannot_be_locked(tmp_path, monkeypatch):
    def no_locks(*unused):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    config = cached_config(labelled_folder(tmp_path / "images"), tmp_path / "cache")
    assert len(open_source(config, "train")) == 6


def test_cache_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        open_source(cached_config(labelled_folder(tmp_path / "images"), tmp_path / "file"), "train")
