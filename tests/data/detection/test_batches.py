"""Batches of images with objects: shapes, order, room, what cannot be read."""

import cv2
import numpy as np
import pytest

from benchmarks.shapes import write_shapes
from repre_jax.data.detection.batches import (
    DetectionViews,
    detection_batches,
    whole_image_batches,
)
from repre_jax.data.detection.coco import CocoSource


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    write_shapes(root, train=10, val=5, side=48)
    return root


@pytest.fixture(scope="module")
def source(root):
    return CocoSource(root, "train")


def batches(source, *, start=0, stop=4, seed=0, workers=0, objects=5):
    return list(
        detection_batches(
            source,
            DetectionViews(32, scales=(0.5, 1.5), objects=objects),
            batch_size=4,
            seed=seed,
            start_step=start,
            total_steps=stop,
            workers=workers,
        )
    )


def test_batches_are_of_one_shape_and_a_function_of_the_step(source):
    whole = batches(source)
    assert len(whole) == 4
    for batch in whole:
        assert batch["image"].shape == (4, 32, 32, 3) and batch["image"].dtype == np.uint8
        assert batch["masks"].shape == (4, 5, 112, 112)
        assert (batch["replaced"] == -1).all() and not batch["left_out"].any()
        for row in range(4):
            valid = batch["valid"][row]
            boxes = batch["boxes"][row]
            height, width = batch["size"][row]
            assert (boxes[valid][:, 2:] > boxes[valid][:, :2]).all()
            assert (boxes[valid] <= [width, height, width, height]).all()
            assert batch["masks"][row][valid].any(axis=(1, 2)).all()
            assert not boxes[~valid].any() and not batch["masks"][row][~valid].any()
    # Two steps an epoch: eight of ten images, each once, in another order in the next one.
    first, second = (np.concatenate([b["index"] for b in whole[k : k + 2]]) for k in (0, 2))
    assert len(set(first)) == len(set(second)) == 8 and list(first) != list(second)
    for resumed, batch in zip(batches(source, start=2), whole[2:], strict=True):
        for key in batch:
            np.testing.assert_array_equal(resumed[key], batch[key])
    assert not np.array_equal(batches(source, seed=1)[0]["image"], whole[0]["image"])


@pytest.mark.slow
def test_workers_change_nothing(source):
    for one, other in zip(batches(source), batches(source, workers=2), strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_objects_without_room_are_counted(source):
    all_of_them, one = batches(source), batches(source, objects=1)
    counts = [b["valid"].sum(axis=1) for b in all_of_them]
    assert max(map(max, counts)) > 1
    for batch, count in zip(one, counts, strict=True):
        np.testing.assert_array_equal(batch["left_out"], np.maximum(count - 1, 0))


def test_an_unreadable_image_is_replaced_by_the_next_one(tmp_path):
    write_shapes(tmp_path, train=4, val=1, side=32)
    (tmp_path / "train/0002.png").write_bytes(b"nothing")
    (batch,) = batches(CocoSource(tmp_path, "train"), stop=1)
    (row,) = np.flatnonzero(batch["replaced"] >= 0)
    assert batch["replaced"][row] == 2 and batch["index"][row] == 3


def test_whole_images_come_in_order_with_padding(root, tmp_path):
    val = CocoSource(root, "val")
    found = list(whole_image_batches(val, DetectionViews(64), batch_size=3, workers=0))
    assert [batch["index"].tolist() for batch in found] == [[0, 1, 2], [3, 4, -1]]
    assert [batch["mask"].tolist() for batch in found] == [[True] * 3, [True, True, False]]
    image = cv2.imread(str(root / "val/0003.png"))[..., ::-1]
    wanted = cv2.resize(image, (64, 64), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(found[1]["image"][0], wanted)
    np.testing.assert_array_equal(found[1]["size"][0], [64, 64])
