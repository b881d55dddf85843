"""What every kind of source on disk has in common: the same images, however they are kept."""

import pickle
import shutil

import cv2
import numpy as np
import pytest
from folders import add_to_tar, folder_config

from repre_jax.data.sources import has_split, open_source, short_name
from repre_jax.data.sources.source import Source
from repre_jax.data.sources.survey import in_words

CLASSES = ("cat", "dog")
COUNTS = {"train": 5, "val": 3}


def png(split: str, number: int, side: int = 12) -> bytes:
    """An image whose level tells the split and the number, large enough for its number to show."""
    level = 20 * number + (split == "val")
    return cv2.imencode(".png", np.full((side, 40, 3), level, np.uint8))[1].tobytes()


def images(changed: bool):
    """(split, class, number, encoded) of every image; the first may be another one."""
    for split, count in COUNTS.items():
        for number in range(count):
            side = 40 if changed and number == 0 else 12
            yield split, number % 2, number, png(split, number, side)


def write_folder(root, changed):
    for split, label, number, data in images(changed):
        path = root / split / CLASSES[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return {"source": "folder", "path": str(root)}


def write_tar(root, changed, with_cls=False):
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    for split, label, number, data in images(changed):
        folder = "" if with_cls else f"./{CLASSES[label]}/"
        files = {f"{folder}{number}.png": data}
        if with_cls:
            files[f"{number}.cls"] = CLASSES[label].encode()
        add_to_tar(root / f"{split}-{number // 3:03}.tar", files)
    return {"source": "tar", "path": str(root)}


def write_webdataset(root, changed):
    return write_tar(root, changed, with_cls=True)


def datasets_of(changed):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "id": datasets.Value("int64"),
            "img": datasets.Image(),
            "label": datasets.ClassLabel(names=list(CLASSES)),
        }
    )
    rows = {split: {"id": [], "img": [], "label": []} for split in COUNTS}
    for split, label, number, data in images(changed):
        rows[split]["id"].append(number)
        rows[split]["img"].append({"bytes": data, "path": f"{number}.png"})
        rows[split]["label"].append(label)
    return datasets.DatasetDict(
        {split: datasets.Dataset.from_dict(of, features) for split, of in rows.items()}
    )


def write_saved(root, changed):
    found = datasets_of(changed)
    found["validation"] = found.pop("val")
    found.save_to_disk(root)
    return {"source": "huggingface", "path": str(root)}


def write_parquet(root, changed):
    (root / "data").mkdir(parents=True, exist_ok=True)
    for split, dataset in datasets_of(changed).items():
        for shard in range(2):
            part = dataset.shard(2, shard, contiguous=True)
            part.to_parquet(root / "data" / f"{split}-{shard:05}-of-00002.parquet")
    return {"source": "huggingface", "path": str(root)}


WRITERS = [write_folder, write_tar, write_webdataset, write_saved, write_parquet]


@pytest.fixture(params=WRITERS, ids=lambda writer: writer.__name__)
def config_of(request, tmp_path):
    def write(changed=False, **fields):
        where = request.param(tmp_path / ("changed" if changed else "set"), changed)
        return folder_config(**where, **{"cache_path": str(tmp_path / "cache")} | fields)

    return write


def order(source: Source) -> list[int]:
    """The number of each image, by its level."""
    return [int(source.read(index)[0, 0, 0]) // 20 for index in range(len(source))]


def test_the_same_images_however_they_are_kept(config_of):
    config = config_of()
    assert short_name(config) == "set"
    for split, count in COUNTS.items():
        assert has_split(config, split)
        source = open_source(config, split)
        assert len(source) == count and source.class_names == CLASSES
        numbers = order(source)
        assert sorted(numbers) == list(range(count))
        assert source.labels.dtype == np.int32
        np.testing.assert_array_equal(source.labels, np.array(numbers) % 2)
        for index, number in enumerate(numbers):
            image, label = source.read_with_label(index)
            np.testing.assert_array_equal(image, np.full((12, 40, 3), image[0, 0, 0]))
            assert label == number % 2
            assert source.encoded(index) == png(split, number)
        assert len({source.name_of(index) for index in range(count)}) == count
        copy = pickle.loads(pickle.dumps(source))
        np.testing.assert_array_equal(copy.read(1), source.read(1))
        assert copy.name_of(1) == source.name_of(1)
        listed = list(source.listing())
        assert all(f"{numbers[k]}.png".encode() in line for k, line in enumerate(listed))
        assert listed[0].endswith(f"\t{len(png(split, numbers[0]))} bytes".encode())
    train, val = (open_source(config, split) for split in COUNTS)
    assert train.remarks == ()
    told = in_words(train, val)
    assert told.startswith("Images: 5 of ") and "2 classes (cat, dog); for validation 3 of" in told


def test_the_fingerprint_is_that_of_the_images(config_of):
    first, again = (open_source(config_of(), "train") for _ in range(2))
    other = open_source(config_of(changed=True), "train")
    without = open_source(config_of(labels="none"), "train")
    assert first.fingerprint == again.fingerprint
    assert len({first.fingerprint, other.fingerprint, without.fingerprint}) == 3
    assert without.labels is None and without.why_unlabelled == "data.labels=none"


def test_any_kind_can_be_kept_decoded(config_of):
    source = open_source(config_of(cache_size=6), "val")
    assert source.read(0).shape == (6, 20, 3) and source.class_names == CLASSES
    np.testing.assert_array_equal(source.labels, np.array(order(source)) % 2)
