"""Sets of the library ``datasets``: their columns, their splits, and where its cache goes."""

import importlib.util
import os

import cv2
import numpy as np
import pytest
from folders import folder_config

from repre_jax.data.sources import has_split, open_source
from repre_jax.data.sources.decode import BadImage
from repre_jax.errors import UserError

datasets = pytest.importorskip("datasets")

PNG = cv2.imencode(".png", np.full((40, 40, 3), 9, np.uint8))[1].tobytes()
IMAGE = {"bytes": PNG, "path": None}


@pytest.fixture
def config_of(tmp_path):
    def config(path="set"):
        cache = str(tmp_path / "cache")
        return folder_config(tmp_path / path, source="huggingface", cache_path=cache)

    return config


def dataset(rows=3, **columns):
    """Columns of (type, values) beside one of images."""
    columns = {"image": (datasets.Image(), [IMAGE] * rows)} | columns
    types = datasets.Features({name: kind for name, (kind, _) in columns.items()})
    return datasets.Dataset.from_dict({n: values for n, (_, values) in columns.items()}, types)


@pytest.mark.parametrize(
    ("columns", "labels", "names"),
    [
        ({"label": (datasets.Value("int64"), [4, None, 2])}, [4, -1, 2], None),
        ({"label": (datasets.Value("uint8"), [4, None, 2])}, [4, -1, 2], None),
        ({"labels": (datasets.ClassLabel(names=["a", "b"]), [1, 0, 1])}, [1, 0, 1], ("a", "b")),
        ({"fine": (datasets.ClassLabel(names=["a", "b"]), [1, 0, 1])}, [1, 0, 1], ("a", "b")),
        ({"label": (datasets.ClassLabel(names=["a"]), [-1, -1, -1])}, None, None),
        ({"label": (datasets.Value("string"), ["a", "b", "c"])}, None, None),
        ({"count": (datasets.Value("int64"), [1, 2, 3])}, None, None),
    ],
)
def test_labels_are_classes_or_numbers_of_a_column(config_of, tmp_path, columns, labels, names):
    dataset(**columns).save_to_disk(tmp_path / "set")
    source = open_source(config_of(), "train")
    assert (None if source.labels is None else source.labels.tolist()) == labels
    assert source.class_names == names
    assert not has_split(config_of(), "val")
    with pytest.raises(UserError, match="has no val split"):
        open_source(config_of(), "val")


def test_labels_that_are_no_classes(config_of, tmp_path):
    dataset(label=(datasets.Value("int64"), [2**31, 0, 1])).save_to_disk(tmp_path / "set")
    with pytest.raises(UserError, match="labels up to 2147483648 in its column label"):
        open_source(config_of(), "train")


def test_rows_without_an_image_are_bad_and_paths_are_followed(config_of, tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    values = [None, {"bytes": None, "path": str(tmp_path / "a.png")}, IMAGE]
    saved = dataset(image=(datasets.Image(), values)).with_format("numpy")
    (tmp_path / "set").mkdir()
    saved.to_parquet(tmp_path / "set" / "0.parquet")
    source = open_source(config_of(), "train")
    with pytest.raises(BadImage, match="the row has no image") as caught:
        source.read(0)
    assert caught.value.path == source.name_of(0)
    assert [source.read(index)[0, 0, 0] for index in (1, 2)] == [9, 9]
    os.remove(tmp_path / "a.png")
    with pytest.raises(BadImage, match=r"a\.png"):
        source.read(1)


def test_a_set_that_was_saved_with_a_format(config_of, tmp_path):
    dataset().with_format("numpy").save_to_disk(tmp_path / "set")
    assert open_source(config_of(), "train").encoded(0) == PNG


def test_the_library_writes_into_the_cache_alone(config_of, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "set").mkdir()
    dataset().to_parquet(tmp_path / "set" / "0.parquet")
    before = {path.name for path in tmp_path.iterdir()}
    assert len(open_source(config_of("set/0.parquet"), "train")) == 3
    assert {path.name for path in tmp_path.iterdir()} == before | {"cache"}
    assert os.listdir(tmp_path / "cache") == ["huggingface"]
    assert os.listdir(tmp_path / "set") == ["0.parquet"]


def test_splits_by_their_usual_names(config_of, tmp_path):
    parts = {"Train": dataset(3), "test": dataset(2)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "set")
    train, val = (open_source(config_of(), split) for split in ("train", "val"))
    assert (len(train), len(val)) == (3, 2)
    assert train.remarks == (f"In {tmp_path}/set, test is taken for validation.",)
    datasets.DatasetDict({"unsupervised": dataset(1)}).save_to_disk(tmp_path / "other")
    with pytest.raises(UserError, match="no split called train, only unsupervised"):
        open_source(config_of("other"), "train")


def test_what_cannot_be_read_is_told_in_a_sentence(config_of, tmp_path, monkeypatch):
    (tmp_path / "set").mkdir()
    with pytest.raises(UserError, match="neither a set that save_to_disk"):
        open_source(config_of(), "train")
    with pytest.raises(UserError, match="neither a set that save_to_disk"):
        open_source(config_of("nowhere"), "train")
    (tmp_path / "set" / "0.parquet").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"0\.parquet cannot be read"):
        open_source(config_of(), "train")
    dataset(rows=0).save_to_disk(tmp_path / "empty")
    with pytest.raises(UserError, match="empty cannot be read, or has no rows"):
        open_source(config_of("empty"), "train")
    both = dataset(a=(datasets.Image(), [IMAGE] * 3)).rename_column("image", "b")
    both.save_to_disk(tmp_path / "both")
    with pytest.raises(UserError, match="it has b, a among b, a"):
        open_source(config_of("both"), "train")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'repre_jax\[huggingface\]'"):
        open_source(config_of(), "train")
