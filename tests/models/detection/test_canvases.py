"""A detector finds the same things of an image whatever canvas the image lies in."""

import dataclasses

import jax
import numpy as np
import pytest

from repre_jax.evaluation.detection.recipes import RECIPES
from repre_jax.evaluation.detection.step import build_detector, build_trainer, initial_state
from repre_jax.models.detection.boxes import intersection_over_union
from repre_jax.models.swin import Swin
from repre_jax.schedules import Clock
from repre_jax.sharding import make_mesh

SMALL = {
    "pyramid_width": 16,
    "box_units": 32,
    "mask_convolutions": 1,
    "before_suppression": (1000, 1000),
    "proposals": 300,
    "drop_path": 0.0,
}


@pytest.mark.slow
def test_detections_do_not_depend_on_the_canvas():
    """But near its border, where windows and convolutions see what lies beyond the image."""
    encoder = Swin(embed_width=16, depths=(2, 2, 2, 2), heads=(1, 2, 4, 8), window=4)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (160, 224, 3), np.uint8)
    params = jax.jit(encoder.init)(jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32))
    recipe = dataclasses.replace(RECIPES["swin_1x"], **SMALL)
    detector, params = build_detector(
        encoder, params["params"], recipe, side=256, classes=3, mesh=make_mesh(1)
    )
    trainer = build_trainer(detector, params, recipe, side=256, clock=Clock(2, 2000), seed=0)
    params = jax.jit(lambda params: initial_state(trainer, params).params)(params)
    detections = jax.jit(trainer.detections)
    found = []
    for canvas in ((192, 256), (256, 256)):
        pixels = np.zeros((1, *canvas, 3), np.uint8)
        pixels[0, :160, :224] = image
        batch = {"image": pixels, "size": np.float32([[160, 224]])}
        found.append(jax.tree.map(lambda x: np.asarray(x[0]), detections(params, batch)))
    flat, square = found
    boxes = flat.boxes[flat.valid]
    inside = (boxes[:, 2] < 200) & (boxes[:, 3] < 136)
    assert inside.sum() > 10
    overlap = np.array(intersection_over_union(boxes, square.boxes[square.valid]))
    overlap[flat.classes[flat.valid][:, None] != square.classes[square.valid]] = 0
    # Of two that overlap, the better one suppresses the other: by a last digit it is the other.
    assert (overlap[inside].max(axis=1) > 0.95).mean() > 0.9
