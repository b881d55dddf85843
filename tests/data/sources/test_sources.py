"""Digits, and folders of every shape."""

import os
import pickle

import numpy as np
import pytest
from folders import folder_config, labelled_folder, write_image
from ml_collections import ConfigDict

from repre_jax.data.sources import has_split, open_source
from repre_jax.data.sources.decode import BadImage
from repre_jax.data.sources.folder import FolderSource
from repre_jax.data.sources.survey import in_words
from repre_jax.errors import UserError

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


def test_validation_images_need_no_second_list_of_the_training_images(tmp_path, monkeypatch):
    labelled_folder(tmp_path)
    config = folder_config(tmp_path)
    train, alone = (open_source(config, split) for split in ("train", "val"))
    found, find = [], FolderSource.find.__func__
    monkeypatch.setattr(
        FolderSource,
        "find",
        classmethod(lambda kind, data, split: found.append(split) or find(kind, data, split)),
    )
    beside = open_source(config, "val", 3, train)
    assert found == ["val"] and beside.fingerprint == alone.fingerprint
    assert beside.class_names == train.class_names


def test_validation_classes_keep_the_numbers_of_training(tmp_path):
    for name in ("ant", "bee", "cow"):
        write_image(tmp_path / "train" / name / "a.png")
    write_image(tmp_path / "val" / "cow" / "a.png")
    assert open_source(folder_config(tmp_path), "val").labels.tolist() == [2]
    write_image(tmp_path / "val" / "yak" / "a.png")
    with pytest.raises(UserError, match=r"yak.*data\.labels=none"):
        open_source(folder_config(tmp_path), "val")
    assert open_source(folder_config(tmp_path, labels="none"), "val").labels is None


def test_folders_that_are_no_classes(tmp_path):
    """Months, say: those of the validation images are others than those of training."""
    for month in ("train/2023-01", "train/2023-02", "val/2023-03"):
        write_image(tmp_path / month / "a.png")
    train, val = (open_source(folder_config(tmp_path), s) for s in ("train", "val"))
    assert val.labels is None and val.class_names is None
    assert "validation 1 of" in in_words(train, val)
    assert "no labels (none of its folders, such as 2023-03, is one of the training" in in_words(
        train, val
    )
    unlabelled = open_source(folder_config(tmp_path, labels="none"), "train")
    assert unlabelled.labels is None and "no labels (data.labels=none)" in in_words(
        unlabelled, None
    )
    with pytest.raises(UserError, match=r"data\.labels='some' must be one of auto, none"):
        open_source(folder_config(tmp_path, labels="some"), "train")


def test_what_a_folder_holds_is_told(tmp_path):
    labelled_folder(tmp_path)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("")
    (tmp_path / "train" / "LICENSE").write_text("")
    train, val = (open_source(folder_config(tmp_path), s) for s in ("train", "val"))
    of_train, of_val = (f"image folder {tmp_path}/{split}" for split in ("train", "val"))
    assert in_words(train, val).startswith(
        f"Images: 6 of {of_train}, 2 classes (cat, dog); for validation 4 of {of_val}, 2 classes "
        f"(cat, dog). 2 other files of {of_train} are skipped (1 .txt, 1 without a suffix)."
    )
    write_image(tmp_path / "train" / "stray.jpg")
    assert f"{tmp_path}/train/stray.jpg lies beside the class folders" in in_words(
        open_source(folder_config(tmp_path), "train"), None
    )


def test_splits_by_their_long_names(tmp_path):
    labelled_folder(tmp_path)
    (tmp_path / "train").rename(tmp_path / "training")
    (tmp_path / "val").rename(tmp_path / "validation")
    train, val = (open_source(folder_config(tmp_path), s) for s in ("train", "val"))
    assert (len(train), len(val)) == (6, 4) and train.class_names == ("cat", "dog")


@pytest.mark.parametrize("names", [("images", "labels"), ("left", "right")])
def test_label_maps_beside_images_are_told(tmp_path, names):
    for number in range(3):
        write_image(tmp_path / names[0] / f"{number}.jpg")
        write_image(tmp_path / names[1] / f"{number}.png")
    told = in_words(open_source(folder_config(tmp_path), "train"), None)
    assert f"{names[1]} may hold label maps" in told and f"2 classes ({', '.join(names)})" in told


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
    with pytest.raises(UserError, match="digits, folder, huggingface, tar, tfds"):
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


def test_names_that_are_not_utf_8_survive(tmp_path):
    write_image(tmp_path / "good.png")
    raw = os.path.join(os.fsencode(tmp_path), b"caf\xe9.png")
    with open(raw, "wb"):  # empty
        pass
    source = pickle.loads(pickle.dumps(open_source(folder_config(tmp_path), "train")))
    assert os.fsencode(source.name_of(0)) == raw
    with pytest.raises(BadImage) as caught:
        source.read(0)
    assert os.fsencode(pickle.loads(pickle.dumps(caught.value)).path) == raw
    assert source.read(1).shape == (20, 30, 3)
