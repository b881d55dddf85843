"""Digits, folders of every shape, prepared TFDS sets, and the cache of decoded images."""

import io
import json
import os
import pickle

import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict

from repre_jax.data import image_cache
from repre_jax.data.sources import BadImage, has_split, open_source
from repre_jax.errors import UserError


def folder_config(path, **fields) -> ConfigDict:
    values = {"source": "folder", "path": str(path), "name": "", "cache_size": 0}
    return ConfigDict(values | {"cache_path": ""} | fields)


def write_image(path, value=100, height=20, width=30):
    path.parent.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode(path.suffix.lower(), np.full((height, width, 3), value, np.uint8))
    path.write_bytes(data.tobytes())


def labelled_folder(root):
    for split, count in (("train", 3), ("val", 2)):
        for label, name in enumerate(("cat", "dog")):
            for number in range(count):
                write_image(root / split / name / f"{number}.png", 50 * label + number)
    return root


# digits


def test_digits_are_the_1797_of_scikit_learn_split_by_class():
    from sklearn.datasets import load_digits

    train, val = (open_source(ConfigDict({"source": "digits"}), s) for s in ("train", "val"))
    assert len(train) + len(val) == 1797
    for label in range(10):
        share = (val.labels == label).sum() / (load_digits().target == label).sum()
        assert 0.18 < share < 0.21
    rows = sorted(source.name_of(i) for source in (train, val) for i in range(len(source)))
    assert len(set(rows)) == 1797  # no image is in both
    assert train.fingerprint != val.fingerprint
    assert train.fingerprint == open_source(ConfigDict({"source": "digits"}), "train").fingerprint


def test_digits_pixels():
    from sklearn.datasets import load_digits

    source = open_source(ConfigDict({"source": "digits"}), "val")
    row = int(source.name_of(7)[len("digits[") : -1])
    image = source.read(7)
    assert image.shape == (8, 8, 3) and image.dtype == np.uint8
    np.testing.assert_allclose(image[..., 2], load_digits().images[row] * 255 / 16, atol=0.5)
    assert source.labels[7] == load_digits().target[row]
    assert max(source.read(i).max() for i in range(len(source))) == 255


# folders


def test_labelled_folder(tmp_path):
    labelled_folder(tmp_path)
    train, val = (open_source(folder_config(tmp_path), s) for s in ("train", "val"))
    assert train.class_names == val.class_names == ("cat", "dog")
    np.testing.assert_array_equal(train.labels, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(val.labels, [0, 0, 1, 1])
    assert train.labels.dtype == np.int32
    assert train.read(4)[0, 0, 0] == 51
    assert train.name_of(4) == str(tmp_path / "train" / "dog" / "1.png")
    assert train.read_with_label(4)[1] == 1


def test_validation_classes_keep_the_numbers_of_training(tmp_path):
    for name in ("ant", "bee", "cow"):
        write_image(tmp_path / "train" / name / "a.png")
    write_image(tmp_path / "val" / "cow" / "a.png")
    assert open_source(folder_config(tmp_path), "val").labels.tolist() == [2]
    write_image(tmp_path / "val" / "yak" / "a.png")
    with pytest.raises(UserError, match="yak"):
        open_source(folder_config(tmp_path), "val")


def test_flat_folder_has_no_labels(tmp_path):
    for number in range(3):
        write_image(tmp_path / f"{number}.png")
    source = open_source(folder_config(tmp_path), "train")
    assert len(source) == 3 and source.labels is None and source.class_names is None
    assert source.read_with_label(0)[1] == -1
    assert not has_split(folder_config(tmp_path), "val")
    with pytest.raises(UserError, match="no val split"):
        open_source(folder_config(tmp_path), "val")


def test_unlabelled_train_and_val(tmp_path):
    write_image(tmp_path / "train" / "a.png")
    write_image(tmp_path / "val" / "b.png")
    assert has_split(folder_config(tmp_path), "val")
    source = open_source(folder_config(tmp_path), "val")
    assert source.labels is None and source.name_of(0).endswith("b.png")


def test_one_subfolder_is_no_class(tmp_path):
    write_image(tmp_path / "images" / "a.png")
    assert open_source(folder_config(tmp_path), "train").labels is None


def test_depth_suffixes_hidden_files_and_links(tmp_path):
    write_image(tmp_path / "cat" / "deep" / "er" / "a.PNG")
    write_image(tmp_path / "cat" / "b.JPEG")
    write_image(tmp_path / "dog" / "ünï cødé.jpg")
    write_image(tmp_path / "dog" / "d.webp")
    write_image(tmp_path / "dog" / ".hidden.png")
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    (tmp_path / "dog" / "loop").symlink_to(tmp_path)
    (tmp_path / "dog" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    source = open_source(folder_config(tmp_path), "train")
    names = [os.path.relpath(source.name_of(i), tmp_path) for i in range(len(source))]
    expected = ["cat/b.JPEG", "cat/deep/er/a.PNG", "dog/d.webp", "dog/gone.jpg"]
    assert names == [*expected, "dog/ünï cødé.jpg"]
    assert source.labels.tolist() == [0, 0, 1, 1, 1]
    assert source.read(4).shape == (20, 30, 3)
    with pytest.raises(BadImage, match="No such file"):
        source.read(3)


def test_bad_files_are_named(tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.png").write_bytes(b"hello")
    source = open_source(folder_config(tmp_path), "train")
    for index, name in enumerate(("empty.jpg", "text.png")):
        with pytest.raises(BadImage) as caught:
            source.read(index)
        assert caught.value.path == str(tmp_path / name)


def test_folder_errors_say_where_and_what_to_do(tmp_path):
    for path, words in (
        ("", "data.path"),
        (tmp_path / "missing", "does not exist"),
        (tmp_path, "No image was found"),
    ):
        with pytest.raises(UserError, match=words):
            open_source(folder_config(path), "train")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="not a folder"):
        open_source(folder_config(tmp_path / "file"), "train")
    write_image(tmp_path / "val" / "a.png")
    with pytest.raises(UserError, match="no train folder"):
        open_source(folder_config(tmp_path), "train")
    with pytest.raises(UserError, match=r"digits, folder, tfds"):
        open_source(folder_config(tmp_path, source="s3"), "train")


def test_fingerprint_follows_names_sizes_and_labels(tmp_path):
    root = labelled_folder(tmp_path)
    first = open_source(folder_config(root), "train").fingerprint
    assert open_source(folder_config(root), "train").fingerprint == first
    write_image(root / "train" / "cat" / "0.png", 7, height=200, width=200)  # another size
    second = open_source(folder_config(root), "train").fingerprint
    (root / "train" / "cat" / "1.png").rename(root / "train" / "dog" / "1b.png")
    third = open_source(folder_config(root), "train").fingerprint
    assert len({first, second, third}) == 3


def test_folder_source_pickles_small(tmp_path):
    source = open_source(folder_config(labelled_folder(tmp_path)), "train")
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy.read(5), source.read(5))


# the cache


def cached_config(root, cache, size=16):
    return folder_config(root, cache_size=size, cache_path=str(cache))


def test_cache_equals_decode_and_resize(tmp_path, capfd):
    from repre_jax.data.views import resize

    root, rng = tmp_path / "images", np.random.default_rng(0)
    shapes = [(20, 30), (40, 16), (8, 8), (1, 1), (16, 16)]
    for number, (height, width) in enumerate(shapes):
        (root / "x").mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        cv2.imwrite(str(root / "x" / f"{number}.png"), pixels)
    (root / "x" / "9.jpg").write_bytes(b"")
    plain = open_source(folder_config(root), "train")
    source = open_source(cached_config(root, tmp_path / "cache"), "train")
    assert "caching images" in capfd.readouterr().err
    expected = [(16, 24), (40, 16), (8, 8), (1, 1), (16, 16)]  # short side 16, never enlarged
    for index, shape in enumerate(expected):
        image = source.read(index)
        assert image.shape == (*shape, 3)
        np.testing.assert_array_equal(image, resize(plain.read(index), *shape, "bicubic"))
    with pytest.raises(BadImage, match="empty") as caught:
        source.read(5)
    assert caught.value.path == plain.name_of(5)
    assert source.labels is None and source.fingerprint == plain.fingerprint


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


def test_cache_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        open_source(cached_config(labelled_folder(tmp_path / "images"), tmp_path / "file"), "train")


# TFDS


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Prepares two small sets in array_record, without TensorFlow."""
    import tensorflow_datasets as tfds

    class Sprites(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        features: dict
        images: int

        def _info(self):
            features = tfds.features.FeaturesDict(self.features)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {"train": self._generate_examples(6), "test": self._generate_examples(3)}

        def _generate_examples(self, count):
            for number in range(count):
                pixels = np.full((12, 18, 3), 20 * number, np.uint8)
                jpeg = cv2.imencode(".png", pixels)[1].tobytes()
                if number == 5:
                    jpeg = jpeg[:30]
                example = {"image": io.BytesIO(jpeg)}
                if "label" in self.features:
                    mask = cv2.imencode(".png", pixels[..., :1])[1].tobytes()
                    example |= {"label": number % 2, "mask": io.BytesIO(mask), "note": "x"}
                yield number, example

    class LabelledSprites(Sprites):
        features = {  # noqa: RUF012
            "image": tfds.features.Image(shape=(None, None, 3)),
            "mask": tfds.features.LabeledImage(labels=256, shape=(None, None, 1)),
            "label": tfds.features.ClassLabel(names=["even", "odd"]),
            "note": tfds.features.Text(),
        }

    class PlainSprites(Sprites):
        features = {"image": tfds.features.Image(shape=(None, None, 3))}  # noqa: RUF012

    folder = tmp_path_factory.mktemp("tfds")
    for builder in (LabelledSprites, PlainSprites):
        builder(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def tfds_config(folder, name, **fields):
    return folder_config(folder, source="tfds", name=name, **fields)


def test_tfds_labelled(prepared):
    source = open_source(tfds_config(prepared, "labelled_sprites"), "train")
    assert len(source) == 6 and source.class_names == ("even", "odd")
    readable = 0
    for index in range(6):
        try:
            image, label = source.read_with_label(index)
        except BadImage as error:
            assert error.path == source.name_of(index)
            continue
        readable += 1
        assert image.shape == (12, 18, 3)
        assert label == source.labels[index] == (image[0, 0, 0] // 20) % 2
    assert readable == 5
    copy = pickle.loads(pickle.dumps(source))
    assert len(copy) == 6 and copy.fingerprint == source.fingerprint
    val = open_source(tfds_config(prepared, "labelled_sprites"), "val")  # called "test" there
    assert len(val) == 3 and val.fingerprint != source.fingerprint


def test_tfds_without_labels_and_with_a_cache(prepared, tmp_path):
    assert open_source(tfds_config(prepared, "plain_sprites"), "val").labels is None
    fields = {"cache_size": 6, "cache_path": str(tmp_path)}
    source = open_source(tfds_config(prepared, "labelled_sprites:1.0.0", **fields), "val")
    assert source.read(0).shape == (6, 9, 3)
    plain = open_source(tfds_config(prepared, "labelled_sprites"), "val")
    np.testing.assert_array_equal(source.labels, plain.labels)


def test_tfds_errors(prepared, tmp_path):
    with pytest.raises(UserError, match=r"not prepared in .*tfds build mnist"):
        open_source(tfds_config(tmp_path, "mnist"), "train")
    with pytest.raises(UserError, match=r"data\.name is empty"):
        has_split(tfds_config(tmp_path, ""), "train")


def test_tfds_of_another_format_or_with_missing_files(prepared, tmp_path):
    import shutil

    shutil.copytree(prepared, tmp_path / "data")
    folder = tmp_path / "data" / "plain_sprites" / "1.0.0"
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    with pytest.raises(UserError, match="--file_format=array_record"):
        open_source(tfds_config(tmp_path / "data", "plain_sprites"), "train")
    (folder / "dataset_info.json").write_text(json.dumps(info))
    next(folder.glob("*train*")).unlink()
    with pytest.raises(UserError, match="lacks its file"):
        open_source(tfds_config(tmp_path / "data", "plain_sprites"), "train")
    (folder / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        open_source(tfds_config(tmp_path / "data", "plain_sprites"), "train")


def test_no_tensorflow_was_needed():
    import sys

    assert "tensorflow" not in sys.modules and "torch" not in sys.modules
