"""Prepared TFDS sets are read from their array_record files, without TensorFlow."""

import io
import json
import pickle
import shutil
import sys

import cv2
import numpy as np
import pytest
from folders import folder_config

from repre_jax.data.sources import has_split, open_source
from repre_jax.data.sources.decode import BadImage
from repre_jax.errors import UserError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Prepares two small sets in array_record, without TensorFlow."""
    import tensorflow_datasets as tfds

    class Sprites(tfds.core.GeneratorBasedBuilder):
        __module__ = "sprites"  # tfds looks for a package behind a name with dots
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
        __module__ = "sprites"
        features = {  # noqa: RUF012
            "image": tfds.features.Image(shape=(None, None, 3)),
            "mask": tfds.features.LabeledImage(labels=256, shape=(None, None, 1)),
            "label": tfds.features.ClassLabel(names=["even", "odd"]),
            "note": tfds.features.Text(),
        }

    class PlainSprites(Sprites):
        __module__ = "sprites"
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


def test_tfds_tells_of_labels_without_reading_records(prepared, monkeypatch):
    source = open_source(tfds_config(prepared, "labelled_sprites"), "train")
    (told,) = source.remarks
    assert told.endswith("test is taken for validation.")
    with monkeypatch.context() as patched:
        patched.setattr(source, "_example", None)
        assert source.has_labels
    assert not open_source(tfds_config(prepared, "plain_sprites"), "train").has_labels
    example = source._example

    def damaged(index):
        if index == 2:
            raise BadImage("record 2", "damaged record")
        return example(index)

    monkeypatch.setattr(source, "_example", damaged)
    assert source.labels.tolist()[2] == -1 and (source.labels >= 0).sum() == 5


def test_tfds_without_labels_and_with_a_cache(prepared, tmp_path):
    assert open_source(tfds_config(prepared, "plain_sprites"), "val").labels is None
    fields = {"cache_size": 6, "cache_path": str(tmp_path)}
    source = open_source(tfds_config(prepared, "labelled_sprites:1.0.0", **fields), "val")
    assert source.read(0).shape == (6, 9, 3)
    plain = open_source(tfds_config(prepared, "labelled_sprites"), "val")
    np.testing.assert_array_equal(source.labels, plain.labels)


@pytest.mark.parametrize("cache_size", [0, 6])
def test_tfds_does_without_its_labels(prepared, tmp_path, cache_size):
    fields = {"cache_size": cache_size, "cache_path": str(tmp_path)}
    config = tfds_config(prepared, "labelled_sprites", labels="none", **fields)
    with_them = open_source(tfds_config(prepared, "labelled_sprites", **fields), "val")
    without = open_source(config, "val")
    assert with_them.read_with_label(1)[1] >= 0 > without.read_with_label(1)[1]
    assert without.labels is None and without.labels_at_hand
    assert without.fingerprint != with_them.fingerprint


def test_tfds_errors(prepared, tmp_path):
    with pytest.raises(UserError, match=r"not prepared in .*tfds build mnist"):
        open_source(tfds_config(tmp_path, "mnist"), "train")
    with pytest.raises(UserError, match=r"data\.name is empty"):
        has_split(tfds_config(tmp_path, ""), "train")


def test_tfds_of_another_format_or_with_missing_files(prepared, tmp_path):
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
    assert "tensorflow" not in sys.modules and "torch" not in sys.modules
