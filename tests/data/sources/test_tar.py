"""Tar files: which images they hold, whose labels are whose, and what is refused."""

import gzip
import os
import tarfile

import cv2
import numpy as np
import pytest
from folders import add_to_tar, folder_config

from repre_jax.data.sources import has_split, open_source, short_name, tar_index
from repre_jax.data.sources.decode import BadImage
from repre_jax.errors import UserError

PNG = cv2.imencode(".png", np.full((40, 40, 3), 9, np.uint8))[1].tobytes()


@pytest.fixture
def config_of(tmp_path):
    def config(path="", **fields):
        fields = {"source": "tar", "cache_path": str(tmp_path / "cache")} | fields
        return folder_config(tmp_path / path, **fields)

    return config


def names(source):
    return [source.names[index] for index in range(len(source))]


def test_labels_lie_beside_the_images(config_of, tmp_path):
    files = {"a/0.jpg": PNG, "a/0.cls": b"10\n", "a/0.json": b"{}", "b/0.cls": b"9", "b/0.png": PNG}
    add_to_tar(tmp_path / "x.tar", files | {"b/1.png": PNG})
    source = open_source(config_of(), "train")
    assert names(source) == ["a/0.jpg", "b/0.png", "b/1.png"]
    assert source.class_names == ("9", "10") and source.labels.tolist() == [1, 0, -1]
    assert source.remarks == (f"1 other files of tar files of {tmp_path} are skipped (1 .json).",)
    by_folder = open_source(config_of(labels="folders"), "train")
    assert by_folder.class_names == ("a", "b") and by_folder.labels.tolist() == [0, 1, 1]


def test_labels_of_a_table(config_of, tmp_path):
    add_to_tar(tmp_path / "x.tar", {"0.png": PNG, "1.png": PNG})
    (tmp_path / "labels.csv").write_text("0.png,b\n1.png,a\n")
    source = open_source(config_of(labels=str(tmp_path / "labels.csv")), "train")
    assert source.class_names == ("a", "b") and source.labels.tolist() == [1, 0]


def test_without_labels_the_reason_is_known(config_of, tmp_path):
    add_to_tar(tmp_path / "x.tar", {"0.png": PNG})
    source = open_source(config_of("x.tar"), "train")
    assert source.labels is None and source.why_unlabelled == "there are no class folders"
    assert not has_split(config_of("x.tar"), "val") and short_name(config_of("x.tar")) == "x"
    with pytest.raises(UserError, match="have no val split"):
        open_source(config_of("x.tar"), "val")


def test_what_is_no_image_file_is_passed_over(config_of, tmp_path):
    long = "a/long" * 30 + ".png"
    add_to_tar(tmp_path / "x.tar", {"a/._0.png": b"x", "/a/0.png": PNG, long: PNG})
    with tarfile.open(tmp_path / "x.tar", "a") as tar:
        link = tarfile.TarInfo("b/0.png")
        link.type, link.linkname = tarfile.LNKTYPE, "a/0.png"
        tar.addfile(link)
    source = open_source(config_of(), "train")
    assert names(source) == ["a/0.png", long]
    assert "are skipped (1 links)." in source.remarks[0]
    assert source.read(1)[0, 0, 0] == 9


def test_several_images_of_one_name_are_told(config_of, tmp_path):
    add_to_tar(tmp_path / "x.tar", {"0.png": PNG, "0.seg.png": PNG, "1.png": PNG})
    (told,) = open_source(config_of(), "train").remarks
    assert "several images have one name (2 .png, 1 .seg.png)" in told


@pytest.mark.parametrize(
    ("pattern", "train", "val"),
    [
        ("train-{000..002}.tar", 3, 0),
        ("{train,val}-{000..001}.tar", 2, 2),
        ("*.tar", 3, 2),
        ("val-*.tar", 2, 0),
        ("", 3, 2),
    ],
)
def test_patterns(config_of, tmp_path, pattern, train, val):
    (tmp_path / "set").mkdir()
    for split, count in (("train", 3), ("val", 2)):
        for number in range(count):
            add_to_tar(tmp_path / "set" / f"{split}-{number:03}.tar", {f"{number}.png": PNG})
    config = config_of(f"set/{pattern}")
    assert short_name(config) == "set"
    assert len(open_source(config, "train")) == train
    assert has_split(config, "val") == (val > 0)
    if val:
        assert len(open_source(config, "val")) == val


def test_missing_files_are_named(config_of, tmp_path):
    add_to_tar(tmp_path / "0.tar", {"0.png": PNG})
    with pytest.raises(UserError, match=r"names .*/1\.tar, but there is no such file"):
        open_source(config_of("{0..1}.tar"), "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no \.tar file in .*/empty"):
        open_source(config_of("empty"), "train")
    with pytest.raises(UserError, match=r"data\.path is empty"):
        open_source(folder_config("", source="tar"), "train")


def test_archives_that_cannot_be_read_at_random_are_refused(config_of, tmp_path):
    archive = tmp_path / "x.tar"
    add_to_tar(archive, {f"{number}.png": PNG for number in range(3)})
    whole = archive.read_bytes()
    for data, words in (
        (gzip.compress(whole), "is compressed"),
        (whole[:2600], "unexpected end of data"),
        (whole[:1100] + b"x" + whole[1101:], "several archives in one file"),
        (whole + whole, "several archives in one file"),
        (b"", "empty file"),
    ):
        archive.write_bytes(data)
        with pytest.raises(UserError, match=words) as caught:
            open_source(config_of(), "train")
        assert str(archive) in str(caught.value)
    archive.rename(tmp_path / "x.tar.gz")
    with pytest.raises(UserError, match=r"x\.tar\.gz is compressed"):
        open_source(config_of(), "train")
    add_to_tar(archive, {"notes.txt": b""})
    (tmp_path / "x.tar.gz").unlink()
    with pytest.raises(UserError, match="No image was found in the tar files"):
        open_source(config_of(), "train")


def test_an_archive_that_changes_under_a_run_has_bad_images(config_of, tmp_path):
    add_to_tar(tmp_path / "x.tar", {"0.png": PNG, "1.png": PNG})
    source = open_source(config_of(), "train")
    os.truncate(tmp_path / "x.tar", 1600)
    with pytest.raises(BadImage, match="the archive is cut off") as caught:
        source.read(1)
    assert caught.value.path == f"{tmp_path}/x.tar/1.png"


def test_a_slow_pass_over_the_headers_is_kept(config_of, tmp_path, monkeypatch):
    monkeypatch.setattr(tar_index, "_SLOW_SECONDS", 0)
    files = {"ä/0.png": PNG, "ä/0.cls": b"7", "b/1.png": PNG, "c.txt": b""}
    add_to_tar(tmp_path / "x.tar", files)
    first = open_source(config_of(), "train")
    (kept,) = (tmp_path / "cache").iterdir()

    passes = []
    monkeypatch.setattr(tar_index, "_SLOW_SECONDS", 99)
    scan = tar_index._images
    monkeypatch.setattr(tar_index, "_images", lambda *a: passes.append(1) or scan(*a))
    again = open_source(config_of(), "train")
    assert passes == [] and names(again) == names(first) and again.remarks == first.remarks
    assert again.fingerprint == first.fingerprint and again.labels.tolist() == [0, -1]
    np.testing.assert_array_equal(again.read(1), first.read(1))
    kept.write_bytes(b"damaged")
    assert open_source(config_of(), "train").fingerprint == first.fingerprint
    add_to_tar(tmp_path / "x.tar", {"d/2.png": PNG})
    assert len(open_source(config_of(), "train")) == 3 and len(passes) == 2
