"""Which images are for training and which for validation, of one folder or of several."""

import os

import pytest
from folders import folder_config, labelled_folder, write_image

from repre_jax.data.sources import has_split, open_source, short_name
from repre_jax.data.sources.splits import split_files, split_named
from repre_jax.errors import UserError


def opened(path, split="train"):
    return open_source(folder_config(path), split)


@pytest.mark.parametrize(
    ("train", "val"),
    [("Train", "VAL"), ("training", "Validation"), ("TRAIN", "valid"), ("train", "test")],
)
def test_usual_names_in_any_case(tmp_path, train, val):
    labelled_folder(tmp_path)
    (tmp_path / "train").rename(tmp_path / train)
    (tmp_path / "val").rename(tmp_path / val)
    assert [len(opened(tmp_path, split)) for split in ("train", "val")] == [6, 4]
    told = f"In {tmp_path}, test is taken for validation."
    assert opened(tmp_path).remarks == ((told,) if val == "test" else ())


def test_test_images_stand_aside_where_there_are_validation_images(tmp_path):
    labelled_folder(tmp_path)
    write_image(tmp_path / "test" / "cat" / "0.png")
    assert len(opened(tmp_path, "val")) == 4 and opened(tmp_path).remarks == ()


def test_what_lies_beside_the_splits_is_said(tmp_path):
    labelled_folder(tmp_path)
    for name in ("unlabelled", "training"):
        write_image(tmp_path / name / "0.png")
    assert opened(tmp_path).remarks == (
        f"In {tmp_path}, training is not read beside train.",
        f"In {tmp_path}, only the split folders are read, not unlabelled.",
    )


@pytest.mark.parametrize(
    ("names", "aside"),
    [
        (("Train_images", "Test_images"), "Test_images"),
        (("train2017", "val2017"), "val2017"),
        (("cat", "dog", "test"), "test"),
    ],
)
def test_folders_that_only_look_like_splits_are_all_trained_on(tmp_path, names, aside):
    for name in names:
        write_image(tmp_path / name / "0.png")
    source = opened(tmp_path)
    assert len(source) == len(names) and not has_split(folder_config(tmp_path), "val")
    (told,) = source.remarks
    assert told.startswith(f"All of {tmp_path} is trained on, {aside} included")


def test_classes_that_are_called_like_a_train_are_no_news(tmp_path):
    for name in ("bullet_train", "bus", "contest"):
        write_image(tmp_path / name / "0.png")
    assert opened(tmp_path).remarks == ()


def test_several_folders(tmp_path):
    labelled_folder(tmp_path / "a")
    write_image(tmp_path / "b" / "dog" / "0.png", 77)
    write_image(tmp_path / "b" / "eel" / "1.png")
    path = f"{tmp_path / 'a'}, {tmp_path / 'b'}"
    train, val = opened(path), opened(path, "val")
    assert train.class_names == ("cat", "dog", "eel") == val.class_names
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1, 1, 2]
    assert train.name_of(6) == str(tmp_path / "b" / "dog" / "0.png")
    assert train.read(6)[0, 0, 0] == 77 and len(val) == 4
    assert train.description == f"image folders {tmp_path / 'a' / 'train'}, {tmp_path / 'b'}"
    assert short_name(folder_config(path)) == "a+b"
    moved = os.rename(tmp_path / "b", tmp_path / "c")
    assert moved is None
    assert opened(f"{tmp_path / 'a'},{tmp_path / 'c'}").fingerprint == train.fingerprint
    assert opened(f"{tmp_path / 'c'},{tmp_path / 'a'}").fingerprint != train.fingerprint


def test_a_folder_with_a_comma_in_its_name_is_one(tmp_path):
    write_image(tmp_path / "cats, dogs" / "0.png")
    assert len(opened(tmp_path / "cats, dogs")) == 1
    assert short_name(folder_config(tmp_path / "cats, dogs")) == "cats, dogs"


def test_a_run_of_many_folders_has_a_short_name():
    assert short_name(folder_config(",".join(f"/data/{k}" for k in "abcde"))) == "a+b+c+2"


def test_folders_in_one_another_are_refused(tmp_path):
    write_image(tmp_path / "a" / "0.png")
    for path in (f"{tmp_path},{tmp_path / 'a'}", f"{tmp_path},{tmp_path}"):
        with pytest.raises(UserError, match="images would be read twice"):
            opened(path)
    with pytest.raises(UserError, match=r"image folder .*/b does not exist"):
        opened(f"{tmp_path / 'a'},{tmp_path / 'b'}")


def test_two_links_to_one_folder_are_two_classes(tmp_path):
    write_image(tmp_path / "images" / "0.png")
    root = tmp_path / "root"
    root.mkdir()
    for name in ("cat", "dog"):
        (root / name).symlink_to(tmp_path / "images")
    (tmp_path / "images" / "up").symlink_to(tmp_path)
    source = opened(root)
    assert source.class_names == ("cat", "dog") and source.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00002.parquet", "train"),
        ("imagenet1k-validation-07.tar", "val"),
        ("valSet_3.tar", "val"),
        ("latest.tar", None),
        ("trained.tar", None),
    ],
)
def test_the_split_that_a_file_speaks_of(name, split):
    assert split_named(name) == split


def test_files_are_split_by_their_names_or_their_folders():
    files = ["train/0.tar", "train/1.tar", "validation/0.tar", "x.tar"]
    train, val, (told,) = split_files(files, "here")
    assert (train, val) == (files[:2], files[2:3])
    assert told == "1 files of here, such as x.tar, name no split and are not read."
    assert split_files(["a.tar", "test.tar"], "here") == (
        ["a.tar"],
        ["test.tar"],
        ("The test files of here are taken for validation.",),
    )
    assert split_files(["val-0.tar"], "here").remarks == (
        "The files of here all speak of val; all are trained on.",
    )
    with pytest.raises(UserError, match="none for training"):
        split_files(["val.tar", "test.tar"], "here")
