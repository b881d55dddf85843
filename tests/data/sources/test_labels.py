"""Labels from class folders and from tables, and which row of a table is whose."""

import numpy as np
import pytest
from folders import folder_config, labelled_folder, write_image

from repre_jax.data.sources import open_source
from repre_jax.data.sources.survey import in_words
from repre_jax.errors import UserError


def flat_folder(root):
    """train/0.png ... 3.png and val/4.png, val/5.png."""
    for number in range(6):
        write_image(root / ("train" if number < 4 else "val") / f"{number}.png", number)
    return root


def opened(root, table):
    config = folder_config(root, labels=str(table))
    return [open_source(config, split) for split in ("train", "val")]


def table(path, *rows):
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize(
    ("folder", "name"), [("", "{split}/{n}.png"), ("train", "{n}.png"), ("..", "{n}.png")]
)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_names_are_relative_to_the_table_or_the_split_or_unique(tmp_path, folder, name, separator):
    root = flat_folder(tmp_path / "images")
    names = [name.format(split="train" if n < 4 else "val", n=n) for n in range(6)]
    rows = [f"{name}{separator}{n % 2}0" for n, name in enumerate(names)]
    train, val = opened(root, table(root / folder / "labels.csv", *rows))
    assert train.class_names == val.class_names == ("00", "10")
    assert train.labels.tolist() == [0, 1, 0, 1] and val.labels.tolist() == [0, 1]
    assert not any("labels.csv" in remark for remark in train.remarks)


def test_a_header_says_which_columns_are_read(tmp_path):
    rows = ["height,Label,image", *(f'9,"a, b{n % 2}",{n}.png' for n in range(6))]
    train, _ = opened(flat_folder(tmp_path), table(tmp_path / "labels.csv", *rows))
    assert train.class_names == ("a, b0", "a, b1") and train.labels.tolist() == [0, 1, 0, 1]


def test_numbers_are_ordered_by_value_and_validation_keeps_them(tmp_path):
    rows = [f"{n}.png,{label}" for n, label in enumerate([10, 2, 2, 1, 10, 10])]
    train, val = opened(flat_folder(tmp_path), table(tmp_path / "labels.csv", *rows))
    assert train.class_names == ("1", "2", "10")
    assert train.labels.tolist() == [2, 1, 1, 0] and val.labels.tolist() == [2, 2]


def test_minus_one_beside_classes_from_zero_is_no_class(tmp_path):
    root = flat_folder(tmp_path)
    of_images = {"labels.csv": [-1, 0, 1, 0, 1, -1], "signs.csv": [-1, 1, -1, 1, -1, 1]}
    for name, labels in of_images.items():
        table(tmp_path / name, *(f"{n}.png,{label}" for n, label in enumerate(labels)))
    train, val = opened(root, tmp_path / "labels.csv")
    assert train.class_names == ("0", "1")
    assert train.labels.tolist() == [-1, 0, 1, 0] and val.labels.tolist() == [1, -1]
    train, val = opened(root, tmp_path / "signs.csv")
    assert train.class_names == ("-1", "1") and val.labels.tolist() == [0, 1]


def test_what_does_not_fit_is_counted_and_said(tmp_path):
    rows = ["0.png,a", "./1.png,b", "2.png,a", "2.png,b", "9.png,a", "4.png,a", "5.png,b"]
    path = table(tmp_path / "labels.csv", *rows)
    train, val = opened(flat_folder(tmp_path), path)
    assert train.labels.tolist() == [0, 1, -1, -1] and val.labels.tolist() == [0, 1]
    assert train.read_with_label(2)[1] == -1
    told = in_words(train, val)
    assert told.count(f"1 images have no row in {path}.") == 1
    assert f"1 rows of {path}, such as 9.png, name no image." in told
    assert "1 images have rows" in told and "that disagree, and count as unlabelled" in told


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["x.png,1", "y.png,2"], r"names none of the images .* first row is x\.png, .* 0\.png"),
        (["0.png"], "must have the columns image and label"),
        (["0.png,a,b"], "must have the columns image and label"),
        (["0.png,a", "1.png,a,b"], "Row 2 of data.labels=.* has 3 cells, not 2"),
        (["0.png,a", "1.png,b", "4.png,a", "5.png,c"], r"classes that .* lacks \(c\)"),
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path, rows, words):
    with pytest.raises(UserError, match=words):
        opened(flat_folder(tmp_path), table(tmp_path / "labels.csv", *rows))


def test_a_name_that_two_images_have_is_refused(tmp_path):
    root = labelled_folder(tmp_path / "images")
    with pytest.raises(UserError, match=r"0\.png in .* could be .*/cat/0\.png or .*/dog/0\.png"):
        opened(root, table(tmp_path / "labels.csv", "0.png,a", "1.png,b"))


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"cannot be read \(No such file"):
        opened(flat_folder(tmp_path), tmp_path / "labels.csv")


def test_the_fingerprint_follows_the_table(tmp_path):
    root = flat_folder(tmp_path)
    fingerprints = {
        opened(root, table(tmp_path / "labels.csv", "0.png,a", row, "2.png,c"))[0].fingerprint
        for row in ("1.png,a", "1.png,b", "3.png,b")
    }
    assert len(fingerprints) == 3


def test_class_folders_on_demand(tmp_path):
    root = labelled_folder(tmp_path / "images")
    assert open_source(folder_config(root, labels="folders"), "val").class_names == ("cat", "dog")
    write_image(root / "train" / "stray.png")
    with pytest.raises(UserError, match=r"labels=folders, but .*stray\.png lies beside the class"):
        open_source(folder_config(root, labels="folders"), "train")
    with pytest.raises(UserError, match="no class folders to go by: there are no class folders"):
        open_source(folder_config(flat_folder(tmp_path / "flat"), labels="folders"), "train")


@pytest.mark.parametrize("cache_size", [0, 16])
def test_without_labels_there_are_none_whatever_was_kept_before(tmp_path, cache_size):
    root = labelled_folder(tmp_path / "images")
    fields = {"cache_size": cache_size, "cache_path": str(tmp_path / "cache")}
    with_them, without, again = (
        open_source(folder_config(root, labels=labels, **fields), "train")
        for labels in ("auto", "none", "auto")
    )
    assert without.labels is None and without.class_names is None
    assert without.read_with_label(5)[1] == -1
    np.testing.assert_array_equal(again.labels, with_them.labels)
    assert without.fingerprint != with_them.fingerprint == again.fingerprint


def test_other_sources_take_no_tables(tmp_path):
    with pytest.raises(UserError, match=r"must be one of auto, none for data\.source=digits"):
        open_source(folder_config(tmp_path, source="digits", labels="labels.csv"), "train")
