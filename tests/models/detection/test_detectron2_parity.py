"""Whole small detectors against detectron2's: maps, losses, gradients, detections.

A ViTDet with deep heads, and a Swin under FPN with plain ones, whose images are no multiples of the
windows and whose last maps are smaller than a window.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import detection_cases as cases
from golden.compare import FOLDER

from repre_jax.data.detection.annotations import Instances
from repre_jax.data.detection.views import Window, view_objects
from repre_jax.evaluation.detection.recipes import RECIPES, with_changes
from repre_jax.evaluation.detection.step import build_detector
from repre_jax.models.detection.detector import Detector, DetectorForm, detect
from repre_jax.models.detection.heads import BoxHead, MaskHead, ProposalHead
from repre_jax.models.detection.losses import Objects, detection_losses
from repre_jax.models.detection.necks import SimplePyramid
from repre_jax.models.detection.vitdet import detection_vit
from repre_jax.models.swin import Swin
from repre_jax.models.vit import ViT
from repre_jax.sharding import make_mesh

GOLDEN = dict(np.load(FOLDER / "detection.npz"))
LOSSES = {
    "objectness": "loss_rpn_cls",
    "anchors": "loss_rpn_loc",
    "classes": "loss_cls",
    "boxes": "loss_box_reg",
    "masks": "loss_mask",
}
SAMPLES = {
    "anchors_sampled": cases.ANCHORS_SAMPLED,
    "regions_sampled": cases.REGIONS_SAMPLED,
    "before_suppression": cases.BEFORE_SUPPRESSION,
    "proposals": cases.PROPOSALS,
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A detector, and what detectron2's was given and found.

    Attributes:
      name: of its recorded values.
      detector: ours.
      params: its parameters, detectron2's.
      images: float32 [2, H, W, 3].
      objects: of the images.
    """

    name: str
    detector: Detector
    params: Any
    images: np.ndarray
    objects: Objects

    def recorded(self, kind: str) -> dict[str, np.ndarray]:
        """{name: value} of what is recorded below ``<case>/<kind>/``."""
        prefix = f"{self.name}/{kind}/"
        return {
            name.removeprefix(prefix): value
            for name, value in GOLDEN.items()
            if name.startswith(prefix)
        }


def compiled(function):
    """Jitted with few optimisations: these tests pay for the compilation, not for the steps."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def weights(name):
    """detectron2's state dict, by its shapes."""
    prefix = f"{name}/shape/"
    names = [key.removeprefix(prefix) for key in GOLDEN if key.startswith(prefix)]
    return {key: cases.weight(key, tuple(GOLDEN[prefix + key])) for key in names}


def vitdet() -> Case:
    vit = ViT(cases.PATCH, cases.WIDTH, cases.DEPTH, cases.HEADS, cases.POSITIONS * cases.PATCH)
    positions = np.zeros((1, 1 + cases.POSITIONS**2, cases.WIDTH))
    encoder, _ = detection_vit(
        vit, {"position_embedding": positions}, window=cases.WINDOW, drop_path=0.0, remat="none"
    )
    detector = Detector(
        encoder=encoder,
        blocks=encoder.pyramid_blocks,
        neck=SimplePyramid(cases.CHANNELS),
        proposal_head=ProposalHead(2),
        box_head=BoxHead(cases.CLASSES, 2, 1, cases.UNITS, norm=True),
        mask_head=MaskHead(cases.CLASSES, 2, norm=True),
        strides=(4, 8, 16, 32, 64),
        form=DetectorForm(classes=cases.CLASSES, **SAMPLES),
    )
    objects = padded_objects(cases.OF_IMAGE, cases.SIZES, (cases.SIDE, cases.SIDE))
    return Case("vit", detector, cases.parameters(weights("vit")), cases.images(), objects)


def swin_under_fpn() -> Case:
    """Built as a training builds it; assignments are detectron2's, not mmdetection's."""
    params = cases.swin_parameters(weights("swin"))
    width = cases.SWIN_WIDTH * 8
    params["encoder"]["norm"] = {"scale": np.ones(width), "bias": np.zeros(width)}
    swin = Swin(cases.SWIN_WIDTH, cases.SWIN_DEPTHS, cases.SWIN_HEADS, cases.SWIN_WINDOW)
    changes = {"drop_path": 0.0, "pyramid_width": cases.CHANNELS, "box_units": cases.UNITS}
    changes |= {"mask_convolutions": 2, "own_anchors": False, "low_quality": 0.0}
    changes |= {"padding_multiple": 0, **SAMPLES}
    detector, params["encoder"] = build_detector(
        swin,
        params["encoder"],
        with_changes(RECIPES["swin_1x"], changes),
        side=max(cases.SWIN_CANVAS),
        classes=cases.CLASSES,
        mesh=make_mesh(1),
    )
    objects = padded_objects(cases.OF_SWIN_IMAGE, cases.SWIN_SIZES, cases.SWIN_CANVAS)
    return Case("swin", detector, params, cases.swin_images(), objects)


def padded_objects(of_image, sizes, canvas) -> Objects:
    """The objects of both images, padded to four, masks in the boxes' coordinates."""
    from pycocotools import mask as rle

    parts = {"boxes": (4, 4), "classes": (4,), "valid": (4,), "masks": (4, 112, 112)}
    found = {name: np.zeros((2, *shape), np.float32) for name, shape in parts.items()}
    for image, numbers in enumerate(of_image):
        boxes = np.float32([cases.OBJECTS[k][0] for k in numbers])
        classes = np.int32([cases.OBJECTS[k][1] for k in numbers])
        outlines = [rle.encode(np.asfortranarray(cases.bitmap(k, canvas))) for k in numbers]
        seen = view_objects(
            Instances(boxes, classes, outlines), canvas, Window(False, canvas, (0, 0), canvas)
        )
        for name, values in seen._asdict().items():
            found[name][image, : len(numbers)] = values
        found["valid"][image, : len(numbers)] = 1
    return Objects(
        jnp.asarray(found["boxes"]),
        jnp.asarray(found["classes"], jnp.int32),
        jnp.asarray(found["valid"], bool),
        jnp.asarray(found["masks"], jnp.uint8),
        jnp.asarray(sizes, jnp.float32),
    )


@pytest.fixture(
    scope="module",
    params=[vitdet, pytest.param(swin_under_fpn, marks=pytest.mark.slow)],
    ids=["vit", "swin"],
)
def case(request):
    return request.param()


@pytest.fixture(scope="module")
def found(case):
    """(losses, detections), of one program, for both begin with the same maps."""
    return compiled(
        lambda params: (
            losses_of(case, params),
            detect(case.detector, params, case.images, case.objects.size),
        )
    )(case.params)


def losses_of(case, params, objects=None):
    detector = case.detector
    maps = detector.maps(params, case.images)
    keys = jax.random.split(jax.random.key(0), 2)
    return detection_losses(detector, params, maps, objects or case.objects, keys)


@pytest.mark.slow  # of what the tests below are made
def test_maps_and_pyramid(case):
    detector = case.detector
    maps, levels = compiled(
        lambda params, images: (
            maps := detector.maps(params, images),
            detector.levels(params, maps),
        )
    )(case.params, case.images)
    if case.name == "vit":
        np.testing.assert_allclose(maps[0], GOLDEN["vit/map"], atol=2e-4)
    for k, level in enumerate(levels):
        apart = 2 if (case.name, k) == ("swin", 0) else 1
        theirs = GOLDEN[f"{case.name}/level/{k}"]
        np.testing.assert_allclose(level[:1, ::apart, ::apart], theirs, atol=2e-4)


def test_losses(case, found):
    losses, _ = found
    for name, theirs in LOSSES.items():
        # Masks of the source are cut from whole images, not from boxes of 112 x 112.
        tolerance = 5e-3 if name == "masks" else 2e-4
        recorded = GOLDEN[f"{case.name}/loss/{theirs}"]
        np.testing.assert_allclose(losses[name], recorded, rtol=tolerance)


@pytest.mark.slow
def test_gradients(case):
    def total(params):
        losses = losses_of(case, params)
        return sum(value for name, value in losses.items() if name != "masks")

    shapes = case.recorded("shape")
    state = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    state |= case.recorded("gradient")
    ours_of = cases.parameters if case.name == "vit" else cases.swin_parameters
    theirs = [
        (path, leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(ours_of(state))
        if np.asarray(leaf).any()
    ]
    assert len(theirs) == 7

    def error(params):
        ours = dict(jax.tree_util.tree_leaves_with_path(gradients(params)))
        return max(np.abs(ours[path] - leaf).max() / np.abs(leaf).max() for path, leaf in theirs)

    # A unit of the ViT's box head is within 1e-7 of a ReLU's corner and falls to either side: so
    # does the gradient, by 5e-3. Of parameters that differ in the last digit, some fall as the
    # source's did.
    gradients = compiled(jax.grad(total))
    rng = np.random.default_rng(0)

    def in_the_last_digit(leaf):
        return np.float32(leaf * (1 + 1e-7 * rng.standard_normal(np.shape(leaf))))

    assert min(error(jax.tree.map(in_the_last_digit, case.params)) for _ in range(8)) < 5e-5


def test_detections(case, found):
    _, found = found
    assert not np.asarray(found.cut).any()
    for image in range(2):
        theirs = case.recorded(f"found/{image}")
        count = len(theirs["boxes"])
        assert int(found.valid[image].sum()) == count
        np.testing.assert_allclose(found.scores[image, :count], theirs["scores"], atol=2e-4)
        # Of equal scores the order may differ, and what follows from it.
        same = np.abs(found.boxes[image, :count] - theirs["boxes"]).max(axis=1) < 0.02
        same &= np.asarray(found.classes[image, :count]) == theirs["classes"]
        assert same.mean() > 0.95
        masks = np.abs(found.masks[image, :10] - theirs["masks"]).max(axis=(1, 2))
        assert (masks[same[:10]] < 2e-3).all()


@pytest.mark.slow
def test_images_without_objects_teach_what_is_background_and_nothing_else(case):
    nothing = case.objects._replace(valid=jnp.zeros_like(case.objects.valid))
    losses = compiled(lambda params: losses_of(case, params, nothing))(case.params)
    assert {name for name, value in losses.items() if float(value)} == {"objectness", "classes"}

    def of(name):
        return compiled(jax.grad(lambda params: losses_of(case, params, nothing)[name]))

    gradients = jax.tree.leaves(of("objectness")(case.params))
    assert all(np.isfinite(x).all() for x in gradients) and any(np.any(x) for x in gradients)
    for name in ("anchors", "boxes", "masks"):
        assert not any(np.any(x) for x in jax.tree.leaves(of(name)(case.params)))
