"""Batches of images with objects: shapes, order, room, what cannot be read."""

import cv2
import numpy as np
import pytest
from dense_sets import upright_and_flat_shapes

from benchmarks.shapes import write_shapes
from repre_jax.data.detection.batches import detection_batches, whole_image_batches
from repre_jax.data.detection.coco import CocoSource
from repre_jax.data.detection.views import DetectionViews


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


BUCKETS = DetectionViews(64, short_edges=(24, 32), longest=64, crop=True, buckets=(24, 32))


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    """Upright and flat images by turns."""
    root = tmp_path_factory.mktemp("sides")
    return upright_and_flat_shapes(root, train=60, val=5, side=64)


def test_a_batch_has_the_smallest_canvas_that_holds_its_images(sides):
    source = CocoSource(sides, "train")
    steps = len(source) // 4
    options = {"batch_size": 4, "seed": 3, "total_steps": 2 * steps, "workers": 0}
    whole = list(detection_batches(source, BUCKETS, start_step=0, **options))
    shapes = [batch["image"].shape[1:3] for batch in whole]
    assert set(shapes) == {(24, 64), (64, 24), (32, 64), (64, 32)} == set(BUCKETS.canvases)
    for batch, canvas in zip(whole, shapes, strict=True):
        again = batch["draw"] >= len(source)  # fills a batch up
        rows = zip(batch["size"].astype(int), batch["image"], again, strict=True)
        for size, image, filling in rows:
            smaller = [c for c in BUCKETS.canvases if c[0] >= size[0] and c[1] >= size[1]]
            assert canvas == smaller[0] or (filling and canvas in smaller)
            assert not image[size[0] :].any() and not image[:, size[1] :].any()
    # An epoch has every image once, but for a batch at most of each canvas.
    for epoch in (whole[:steps], whole[steps:]):
        seen = np.concatenate([batch["index"] for batch in epoch])
        assert len(set(seen)) >= len(source) - 4 * len(BUCKETS.canvases)
    # The position in the data is the step, here too.
    for resumed, batch in zip(
        detection_batches(source, BUCKETS, start_step=steps + 1, **options),
        whole[steps + 1 :],
        strict=True,
    ):
        for key in batch:
            np.testing.assert_array_equal(resumed[key], batch[key])


def test_an_image_that_fills_a_batch_up_is_seen_otherwise(sides):
    source = CocoSource(sides, "train")
    options = {"batch_size": 4, "seed": 3, "total_steps": len(source) // 4, "workers": 0}
    rows: dict[int, list] = {}
    for batch in detection_batches(source, BUCKETS, start_step=0, **options):
        for row, index in enumerate(batch["index"]):
            assert batch["draw"][row] % len(source) == index
            rows.setdefault(int(index), []).append((batch["draw"][row], batch["image"][row]))
    repeated = [seen for seen in rows.values() if len(seen) > 1]
    assert repeated
    for (first, image), (second, other), *_ in repeated:
        assert first != second and not np.array_equal(image, other)


def test_what_stands_in_for_an_unreadable_image_fits_into_its_batch(tmp_path):
    upright_and_flat_shapes(tmp_path, train=12, val=1, side=64)
    (tmp_path / "train/0004.png").write_bytes(b"nothing")  # flat, and the next one is upright
    source = CocoSource(tmp_path, "train")
    views = DetectionViews(64, short_edges=(32,), longest=64, buckets=(32,))
    options = {"batch_size": 4, "seed": 0, "start_step": 0, "total_steps": 6, "workers": 0}
    replaced = [
        (batch["size"][row], batch["image"].shape[1:3], batch["image"][row])
        for batch in detection_batches(source, views, **options)
        for row in np.flatnonzero(batch["replaced"] >= 0)
    ]
    assert replaced
    for size, canvas, image in replaced:
        assert (size <= canvas).all() and image[: int(size[0]), : int(size[1])].any()


def test_whole_images_lie_in_their_canvases(sides):
    val = CocoSource(sides, "val")
    views = DetectionViews(64, short_edges=(32,), longest=64, buckets=(32,))
    found = list(whole_image_batches(val, views, batch_size=2, workers=0))
    assert [batch["index"].tolist() for batch in found] == [[0, 2], [4, -1], [1, 3]]
    assert [batch["image"].shape[1:3] for batch in found] == [(32, 64)] * 2 + [(64, 32)]
    assert [batch["size"][0].tolist() for batch in found] == [[32, 64]] * 2 + [[64, 32]]


def test_whole_images_come_in_order_with_padding(root, tmp_path):
    val = CocoSource(root, "val")
    found = list(whole_image_batches(val, DetectionViews(64), batch_size=3, workers=0))
    assert [batch["index"].tolist() for batch in found] == [[0, 1, 2], [3, 4, -1]]
    assert [batch["mask"].tolist() for batch in found] == [[True] * 3, [True, True, False]]
    image = cv2.imread(str(root / "val/0003.png"))[..., ::-1]
    wanted = cv2.resize(image, (64, 64), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(found[1]["image"][0], wanted)
    np.testing.assert_array_equal(found[1]["size"][0], [64, 64])
