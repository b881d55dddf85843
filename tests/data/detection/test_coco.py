"""Folders in COCO's format: what is read, what is left out, what is refused."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from repre_jax.data.detection.annotations import bitmap
from repre_jax.data.detection.coco import CocoSource, open_coco
from repre_jax.data.sources.decode import BadImage
from repre_jax.errors import UserError

SQUARE = [10.0, 20.0, 30.0, 20.0, 30.0, 50.0, 10.0, 50.0]
RUNS = [50 * 10, 30, 50 * 60 - 500 - 30]  # a column of 30, rows 0 to 29, in 50 x 60, column 10


def annotation(number, image, **changes):
    return {
        "id": number,
        "image_id": image,
        "category_id": 7,
        "bbox": [10, 20, 20, 30],
        "area": 600,
        "iscrowd": 0,
        "segmentation": [SQUARE],
    } | changes


def write(root, annotations, *, split="train", layout="annotations/instances_{}2017.json", **more):
    """A set of three images of 50 x 60 pixels, ids 11 to 13."""
    path = root / layout.format(split)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = root / f"{split}2017"
    folder.mkdir(parents=True, exist_ok=True)
    images = [{"id": k, "file_name": f"{k}.png", "height": 50, "width": 60} for k in (13, 11, 12)]
    for image in images:
        cv2.imwrite(str(folder / image["file_name"]), np.full((50, 60, 3), image["id"], np.uint8))
    categories = [{"id": 9, "name": "cat"}, {"id": 7, "name": "dog"}]
    content = {"images": images, "categories": categories, "annotations": annotations} | more
    path.write_text(json.dumps(content))
    return path


def test_a_missing_image_hides_no_folder(tmp_path):
    write(tmp_path, [annotation(1, 11), annotation(2, 13)])
    (tmp_path / "train2017" / "11.png").unlink()
    source = CocoSource(tmp_path, "train")
    assert source.read(1)[0, 0, 0] == 13
    with pytest.raises(BadImage, match=r"11\.png"):
        source.read(0)


def test_objects_come_with_their_images_whatever_the_order(tmp_path):
    encoding = {"size": [50, 60], "counts": RUNS}
    write(
        tmp_path,
        [
            annotation(1, 13),
            annotation(2, 11, category_id=9, segmentation=encoding, bbox=[10, 0, 1, 30]),
            annotation(3, 13, segmentation=[SQUARE, [0, 0, 5, 0, 5, 5]], category_id=9),
        ],
    )
    source = CocoSource(tmp_path, "train")
    assert len(source) == 2  # nothing is annotated in image 12
    assert source.class_names == ("dog", "cat")
    assert [source.image_id(k) for k in range(2)] == [11, 13]
    assert [int(source.read(k)[0, 0, 0]) for k in range(2)] == [11, 13]
    assert source.size(0) == (50, 60)
    first, second = source.instances(0), source.instances(1)
    assert first.classes.tolist() == [1] and second.classes.tolist() == [0, 1]
    np.testing.assert_array_equal(second.boxes[0], [10, 20, 30, 50])
    column = bitmap(first.segmentations[0], (50, 60))
    assert column[:30, 10].all() and column.sum() == 30
    square = bitmap(second.segmentations[0], (50, 60))
    assert square[20:50, 10:30].all() and square.sum() == 600
    assert bitmap(second.segmentations[1], (50, 60)).sum() > 600
    assert "1 images" in source.remarks[0]


def test_what_is_not_trained_on(tmp_path):
    write(
        tmp_path,
        [
            annotation(1, 11),
            annotation(2, 11, iscrowd=1, segmentation={"size": [50, 60], "counts": RUNS}),
            annotation(3, 11, bbox=[0, 0, 0.5, 9]),
            annotation(4, 11, area=0),
            annotation(5, 11, segmentation=[]),
            annotation(6, 11, segmentation=[[1, 1, 4, 4]]),  # two points
            annotation(7, 12, iscrowd=1, segmentation={"size": [50, 60], "counts": RUNS}),
        ],
    )
    source = CocoSource(tmp_path, "train")
    assert len(source) == 1
    assert len(source.instances(0).boxes) == 1
    assert any("2 objects" in remark and "no mask" in remark for remark in source.remarks)


@pytest.mark.parametrize("layout", ["annotations/{}.json", "{}.json", "{}/_annotations.coco.json"])
def test_exports_of_other_layouts(tmp_path, layout):
    write(tmp_path, [annotation(1, 11)], layout=layout)
    assert len(CocoSource(tmp_path, "train")) == 1


def test_both_splits_and_all_images_of_validation(tmp_path):
    write(tmp_path, [annotation(1, 11)])
    write(tmp_path, [annotation(1, 11)], split="val")
    train, val = open_coco(SimpleNamespace(path=str(tmp_path)), 3)
    assert (len(train), len(val)) == (1, 3)
    assert train.fingerprint != val.fingerprint
    write(tmp_path, [annotation(1, 11)], split="val", categories=[{"id": 7, "name": "wolf"}])
    with pytest.raises(UserError, match=r"other categories \(dog as 7, wolf as 7, cat as 9\)"):
        open_coco(SimpleNamespace(path=str(tmp_path)), 3)


def test_other_images_of_the_same_names_are_others(tmp_path):
    write(tmp_path, [annotation(1, 11)])
    source = CocoSource(tmp_path, "train")
    assert CocoSource(tmp_path, "train").fingerprint == source.fingerprint
    noise = np.random.default_rng(0).integers(256, size=(50, 60, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "train2017/11.png"), noise)
    other = CocoSource(tmp_path, "train")
    assert other.fingerprint != source.fingerprint
    assert list(other.listing()) != list(source.listing())


def test_images_that_cannot_be_used_are_told_of(tmp_path):
    write(tmp_path, [annotation(1, 11), annotation(2, 12)])
    cv2.imwrite(str(tmp_path / "train2017/11.png"), np.zeros((60, 50, 3), np.uint8))
    (tmp_path / "train2017/12.png").unlink()
    source = CocoSource(tmp_path, "train")
    with pytest.raises(BadImage, match="50 x 60 pixels, and the annotations are of 60 x 50"):
        source.read(0)
    with pytest.raises(BadImage, match="No such file"):
        source.read(1)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"annotations": [annotation(1, 99)]}, "image 99 is annotated and not listed"),
        ({"annotations": [annotation(1, 11, category_id=3)]}, "category 3 is annotated"),
        ({"annotations": [annotation(1, 11, segmentation=[])]}, "boxes and no masks"),
        ({"annotations": [{"id": 1, "image_id": 11, "category_id": 7}]}, "there is no 'bbox'"),
        ({"annotations": []}, "no object with a mask"),
        ({"categories": []}, "lists no category"),
        ({"images": None}, "cannot be read as annotations"),
    ],
)
def test_files_that_are_refused(tmp_path, change, told):
    change = dict(change)
    write(tmp_path, change.pop("annotations", [annotation(1, 11)]), **change)
    with pytest.raises(UserError, match=told):
        CocoSource(tmp_path, "train")


def test_folders_that_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"data\.path is empty"):
        open_coco(SimpleNamespace(path=""), 3)
    with pytest.raises(UserError, match="encoder takes 1"):
        open_coco(SimpleNamespace(path=str(tmp_path)), 1)
    with pytest.raises(UserError, match="is no folder"):
        CocoSource(tmp_path / "nowhere", "train")
    with pytest.raises(UserError, match="no annotations of train images"):
        CocoSource(tmp_path, "train")
    path = write(tmp_path, [annotation(1, 11)])
    for file in (tmp_path / "train2017").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"lists 11\.png, which is in none of"):
        CocoSource(tmp_path, "train")
    path.write_text("{")
    with pytest.raises(UserError, match="cannot be read as annotations in COCO's format"):
        CocoSource(tmp_path, "train")
