"""A run belongs to its images."""

import shutil

import pytest
from folders import folder_config, labelled_folder, write_image

from repre_jax.data.sources import open_source
from repre_jax.errors import UserError
from repre_jax.pretrain import FREE_TO_CHANGE
from repre_jax.runs.folder import RunFolder
from repre_jax.runs.images import check_same_images, write_images


@pytest.fixture
def begun(tmp_path):
    """(folder of a run that began with the images of ``tmp_path/images``, those images)."""
    root = labelled_folder(tmp_path / "images")
    folder = RunFolder(tmp_path / "run", {})
    check_same_images(folder, sources(root))
    write_images(folder, sources(root))
    yield folder, root
    folder.close()


def sources(root):
    return {split: open_source(folder_config(root), split) for split in ("train", "val")}


def refusal(folder, found) -> str:
    with pytest.raises(UserError) as caught:
        check_same_images(folder, found)
    return str(caught.value)


def test_the_same_images_elsewhere_go_on(begun, tmp_path):
    folder, root = begun
    check_same_images(folder, sources(root))
    check_same_images(folder, sources(shutil.move(root, tmp_path / "moved")))


def test_a_table_of_labels_may_move_with_its_images(tmp_path):
    def opened(root):
        config = folder_config(root, labels=str(root / "labels.csv"))
        saved = {"data": config.to_dict()}
        return RunFolder(tmp_path / "run", saved, ignore=FREE_TO_CHANGE), {
            split: open_source(config, split) for split in ("train", "val")
        }

    root = labelled_folder(tmp_path / "images")
    (root / "labels.csv").write_text("train/cat/0.png,a\ntrain/dog/1.png,b\nval/dog/0.png,a\n")
    folder, found = opened(root)
    write_images(folder, found)
    folder.close()
    folder, found = opened(root.rename(tmp_path / "moved"))
    check_same_images(folder, found)
    (tmp_path / "moved" / "labels.csv").write_text("train/cat/0.png,a\ntrain/dog/2.png,b\n")
    folder.close()
    folder, found = opened(tmp_path / "moved")
    assert "; the labels differ)" in refusal(folder, found)
    folder.close()


def test_other_images_are_refused_with_the_first_difference(begun, tmp_path):
    folder, root = begun
    write_image(root / "train" / "cat" / "0b.png")
    said = refusal(folder, sources(root))
    assert f"(train: 6 images of image folder {root}/train -> 7 images of image folder" in said
    size = (root / "train" / "cat" / "1.png").stat().st_size
    assert f"first difference: cat/1.png, {size} bytes -> cat/0b.png, " in said
    write_images(folder, sources(root))  # of a run that goes on: what it began with stays
    assert refusal(folder, sources(root)) == said


def test_other_sizes_labels_and_splits_are_refused(begun):
    folder, root = begun
    found = sources(root)
    assert "(val: 4 images of image folder" in refusal(folder, {"train": found["train"]})
    found["val"].fingerprint = "of other labels"
    assert "; the labels differ)" in refusal(folder, found)
    write_image(root / "val" / "dog" / "1.png", height=300, width=300)
    assert "first difference: dog/1.png, " in refusal(folder, sources(root))
    (root / "val" / "dog" / "1.png").unlink()
    assert " bytes -> none)" in refusal(folder, sources(root))


def test_a_garbled_note_of_the_images_is_refused(begun):
    folder, root = begun
    (folder.path / "images.json").write_text('{"train": ')
    assert "images.json cannot be read" in refusal(folder, sources(root))


def test_a_run_older_than_the_note_goes_on_and_gets_one(begun):
    folder, root = begun
    for path in folder.path.glob("images*"):
        path.unlink()
    check_same_images(folder, sources(root))
    write_images(folder, sources(root))
    assert (folder.path / "images.json").exists()
