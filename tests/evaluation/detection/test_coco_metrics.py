"""COCO's numbers: truth fed as detections, pasted masks against torch, files of no detections."""

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as rle

from benchmarks.shapes import write_shapes
from repre_jax.data.detection.coco import CocoSource
from repre_jax.data.detection.views import fitted_window, view_objects
from repre_jax.evaluation.detection import coco_metrics
from repre_jax.evaluation.detection.coco_metrics import (
    Found,
    average_precisions,
    coco_results,
    pasted,
)

MINI = Path(__file__).parents[4] / "shared/data/coco_mini"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    write_shapes(root, train=1, val=12, side=128)
    return CocoSource(root, "val")


def smaller(masks: np.ndarray) -> np.ndarray:
    """[n, 112, 112] -> [n, 28, 28], as the targets of the mask head are made of whole boxes."""
    cells = masks.reshape(len(masks), 28, 4, 28, 4).astype(np.float64)
    return (cells.mean(axis=(2, 4)) >= 0.5).astype(np.float64)


def truth(source, index, side):
    """Its objects as a detector of ``side`` pixels would find them, in the image's pixels."""
    size = source.size(index)
    window = fitted_window(size, side, side)
    seen = view_objects(source.instances(index), size, window)
    factors = np.array([size[1] / window.size[1], size[0] / window.size[0]])
    boxes = seen.boxes * np.tile(factors, 2)
    return Found(boxes, np.ones(len(boxes)), seen.classes, smaller(seen.masks))


def measured(source, side):
    results, ids = [], []
    for index in range(len(source)):
        ids.append(source.image_id(index))
        results += coco_results(
            truth(source, index, side),
            image_id=ids[-1],
            size=source.size(index),
            category_ids=source.annotations.categories.ids,
        )
    return average_precisions(source.annotations.path, results, ids)


def test_the_truth_is_found_perfect(shapes):
    found = measured(shapes, 200)
    assert found["box"]["AP"] == pytest.approx(1, abs=1e-9)
    assert found["mask"]["AP"] > 0.98
    assert found["box"]["AP_large"] == -1  # there is none


@pytest.mark.skipif(not MINI.is_dir(), reason="needs ../shared/data/coco_mini")
@pytest.mark.parametrize("split", [pytest.param("train", marks=pytest.mark.slow), "val"])
def test_the_truth_of_photographs_is_found_in_masks_of_28_numbers(split):
    source = CocoSource(MINI, split)
    found = measured(source, 1024)
    assert found["box"]["AP"] == pytest.approx(1, abs=1e-9)
    assert found["mask"]["AP"] > 0.94 and found["mask"]["AP50"] == pytest.approx(1, abs=1e-9)


def test_only_the_images_that_were_read_count(shapes):
    nothing = average_precisions(shapes.annotations.path, [], [1])["mask"]
    assert (nothing["AP"], nothing["AR_100"], nothing["AP_large"]) == (0, 0, -1)
    one = coco_results(
        truth(shapes, 0, 128), image_id=1, size=shapes.size(0), category_ids=(1, 2, 3)
    )
    path = shapes.annotations.path
    assert average_precisions(path, one, [1])["box"]["AP50"] == pytest.approx(1, abs=1e-9)
    everything = [shapes.image_id(k) for k in range(len(shapes))]
    assert average_precisions(path, one, everything)["box"]["AP50"] < 0.5


def test_areas_of_masks_are_those_of_the_masks(shapes):
    """By which APs of sizes are told apart; loadRes would take the boxes'."""
    found = truth(shapes, 0, 128)
    (first, *_) = coco_results(found, image_id=1, size=(128, 128), category_ids=(1, 2, 3))
    assert json.loads(json.dumps(first)) == first
    area = rle.area(first["segmentation"])
    assert area == pasted(found.masks[0], found.boxes[0], (128, 128)).sum()
    assert first["bbox"][2] * first["bbox"][3] >= area


def test_exports_that_lack_what_the_libraries_ask_for(shapes, tmp_path):
    content = json.loads(shapes.annotations.path.read_text())
    for annotation in content["annotations"]:
        for key in ("id", "area", "iscrowd"):
            del annotation[key]
    without = {"bbox": [0, 0, 9, 9], "category_id": 1, "image_id": 1}
    for segmentation in ([], [[0, 0, 9, 9]]):
        content["annotations"].append(without | {"segmentation": segmentation})
    path = tmp_path / "val.json"
    path.write_text(json.dumps(content))
    one = coco_results(
        truth(shapes, 0, 128), image_id=1, size=shapes.size(0), category_ids=(1, 2, 3)
    )
    found = average_precisions(path, one, [1])
    assert found["box"]["AP50"] == found["mask"]["AP50"] == pytest.approx(1, abs=1e-9)


def test_both_libraries_agree(shapes, monkeypatch):
    pytest.importorskip("faster_coco_eval")
    faster = measured(shapes, 64)
    monkeypatch.setattr(coco_metrics.importlib.util, "find_spec", lambda name: None)
    usual = measured(shapes, 64)
    for kind, values in usual.items():
        assert faster[kind] == pytest.approx(values, abs=1e-12)


BOXES = [[10.0, 5.0, 42.0, 37.0], [-7.3, 3.2, 20.9, 70.5], [30.2, 30.1, 30.9, 31.7]]


@pytest.mark.parametrize("box", BOXES)
def test_masks_are_pasted_as_by_their_definition(box):
    """Pixel centres, bilinear between the numbers, zero beyond them."""
    mask = np.random.default_rng(0).uniform(size=(28, 28))
    found = pasted(mask, np.array(box), (50, 40))
    padded = np.pad(mask, 1)
    for y in range(50):
        for x in range(40):
            u = (x + 0.5 - box[0]) / (box[2] - box[0]) * 28 - 0.5
            v = (y + 0.5 - box[1]) / (box[3] - box[1]) * 28 - 0.5
            value = 0.0
            if -1 < u < 28 and -1 < v < 28:
                left, top = int(np.floor(u)), int(np.floor(v))
                corners = padded[top + 1 : top + 3, left + 1 : left + 3]
                weights = np.outer([1 - (v - top), v - top], [1 - (u - left), u - left])
                value = (corners * weights).sum()
            assert found[y, x] == (value >= 0.5) or abs(value - 0.5) < 1e-6


def test_masks_are_pasted_as_torch_samples_them():
    torch = pytest.importorskip("torch")
    mask = np.random.default_rng(1).uniform(size=(28, 28)).astype(np.float32)
    box, size = np.array(BOXES[1]), (50, 40)
    y = (np.arange(size[0]) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
    x = (np.arange(size[1]) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
    grid = np.stack(np.broadcast_arrays(x[None], y[:, None]), axis=-1).astype(np.float32)
    sampled = torch.nn.functional.grid_sample(
        torch.from_numpy(mask)[None, None], torch.from_numpy(grid)[None], align_corners=False
    )
    difference = pasted(mask, box, size) != (sampled[0, 0].numpy() >= 0.5)
    assert difference.mean() < 1e-3
