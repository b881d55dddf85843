"""A whole small ViTDet against detectron2's: maps, losses, gradients, detections."""

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
PARAMS = cases.parameters(
    {
        name.removeprefix("shape/"): cases.weight(name.removeprefix("shape/"), tuple(shape))
        for name, shape in GOLDEN.items()
        if name.startswith("shape/")
    }
)
LOSSES = {
    "objectness": "loss_rpn_cls",
    "anchors": "loss_rpn_loc",
    "classes": "loss_cls",
    "boxes": "loss_box_reg",
    "masks": "loss_mask",
}


def compiled(function):
    """Jitted with few optimisations: these tests pay for the compilation, not for the steps."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="module")
def detector():
    vit = ViT(cases.PATCH, cases.WIDTH, cases.DEPTH, cases.HEADS, cases.POSITIONS * cases.PATCH)
    positions = np.zeros((1, 1 + cases.POSITIONS**2, cases.WIDTH))
    encoder, _ = detection_vit(
        vit, {"position_embedding": positions}, window=cases.WINDOW, drop_path=0.0, remat="none"
    )
    return Detector(
        encoder=encoder,
        blocks=encoder.pyramid_blocks,
        neck=SimplePyramid(cases.CHANNELS),
        proposal_head=ProposalHead(2),
        box_head=BoxHead(cases.CLASSES, 2, 1, cases.UNITS, norm=True),
        mask_head=MaskHead(cases.CLASSES, 2, norm=True),
        strides=(4, 8, 16, 32, 64),
        form=DetectorForm(
            classes=cases.CLASSES,
            anchors_sampled=cases.ANCHORS_SAMPLED,
            regions_sampled=cases.REGIONS_SAMPLED,
            before_suppression=cases.BEFORE_SUPPRESSION,
            proposals=cases.PROPOSALS,
        ),
    )


@pytest.fixture(scope="module")
def objects():
    """The objects of both images, padded to four, masks in the boxes' coordinates."""
    parts = {"boxes": (4, 4), "classes": (4,), "valid": (4,), "masks": (4, 112, 112)}
    found = {name: np.zeros((2, *shape), np.float32) for name, shape in parts.items()}
    side = (cases.SIDE, cases.SIDE)
    for image, numbers in enumerate(cases.OF_IMAGE):
        boxes = np.float32([cases.OBJECTS[k][0] for k in numbers])
        classes = np.int32([cases.OBJECTS[k][1] for k in numbers])
        outlines = [outline(k) for k in numbers]
        seen = view_objects(
            Instances(boxes, classes, outlines), side, Window(False, side, (0, 0), side)
        )
        for name, values in seen._asdict().items():
            found[name][image, : len(numbers)] = values
        found["valid"][image, : len(numbers)] = 1
    return Objects(
        jnp.asarray(found["boxes"]),
        jnp.asarray(found["classes"], jnp.int32),
        jnp.asarray(found["valid"], bool),
        jnp.asarray(found["masks"], jnp.uint8),
        jnp.asarray(cases.SIZES, jnp.float32),
    )


def outline(number: int) -> dict:
    from pycocotools import mask as rle

    return rle.encode(np.asfortranarray(cases.bitmap(number)))


def test_levels_of_fpn_on_a_swin_of_any_size():
    names = [name for name in GOLDEN if name.startswith("swin_shape/")]
    state = {
        name.removeprefix("swin_shape/"): cases.weight(
            name.removeprefix("swin_shape/"), tuple(GOLDEN[name])
        )
        for name in names
    }
    params = cases.swin_parameters(state)
    width = cases.SWIN_WIDTH * 8
    params["encoder"]["norm"] = {"scale": np.ones(width), "bias": np.zeros(width)}
    swin = Swin(cases.SWIN_WIDTH, cases.SWIN_DEPTHS, cases.SWIN_HEADS, cases.SWIN_WINDOW)
    recipe = with_changes(RECIPES["swin_1x"], {"drop_path": 0.0, "pyramid_width": cases.CHANNELS})
    side = max(cases.SWIN_IMAGE)
    detector, encoder = build_detector(
        swin, params["encoder"], recipe, side=side, classes=1, mesh=make_mesh(1)
    )
    params["encoder"] = encoder
    levels = compiled(lambda p, x: detector.levels(p, detector.maps(p, x)))(
        params, cases.swin_images()
    )
    for k, level in enumerate(levels):
        level = level[:, ::2, ::2] if k == 0 else level
        np.testing.assert_allclose(level, GOLDEN[f"swin_level/{k}"], atol=2e-4)


def losses_of(detector, params, objects):
    maps = detector.maps(params, cases.images())
    keys = jax.random.split(jax.random.key(0), 2)
    return detection_losses(detector, params, maps, objects, keys)


@pytest.mark.slow  # of what both tests below are made
def test_maps_of_the_vit_and_of_its_pyramid(detector):
    maps, levels = compiled(
        lambda params, images: (
            maps := detector.maps(params, images),
            detector.levels(params, maps),
        )
    )(PARAMS, cases.images())
    np.testing.assert_allclose(maps[0], GOLDEN["map"], atol=2e-4)
    for k, level in enumerate(levels):
        np.testing.assert_allclose(level[:1], GOLDEN[f"level/{k}"], atol=2e-4)


def test_losses(detector, objects):
    found = compiled(lambda params: losses_of(detector, params, objects))(PARAMS)
    for name, theirs in LOSSES.items():
        # Masks of the source are cut from whole images, not from boxes of 112 x 112.
        tolerance = 5e-3 if name == "masks" else 2e-4
        np.testing.assert_allclose(found[name], GOLDEN[f"loss/{theirs}"], rtol=tolerance)


@pytest.mark.slow
def test_gradients(detector, objects):
    def total(params):
        losses = losses_of(detector, params, objects)
        return sum(value for name, value in losses.items() if name != "masks")

    state = {
        name.removeprefix("shape/"): np.zeros(shape, np.float32)
        for name, shape in GOLDEN.items()
        if name.startswith("shape/")
    }
    state |= {
        name.removeprefix("gradient/"): value
        for name, value in GOLDEN.items()
        if name.startswith("gradient/")
    }
    theirs = cases.parameters(state)
    theirs = [
        (path, leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(theirs)
        if np.asarray(leaf).any()
    ]
    assert len(theirs) == 7

    def error(params):
        ours = dict(jax.tree_util.tree_leaves_with_path(gradients(params)))
        return max(np.abs(ours[path] - leaf).max() / np.abs(leaf).max() for path, leaf in theirs)

    # A unit of the box head is within 1e-7 of a ReLU's corner and falls to either side: so does the
    # gradient, by 5e-3. Of parameters that differ in the last digit, some fall as the source's did.
    gradients = compiled(jax.grad(total))
    rng = np.random.default_rng(0)

    def in_the_last_digit(leaf):
        return np.float32(leaf * (1 + 1e-7 * rng.standard_normal(np.shape(leaf))))

    assert min(error(jax.tree.map(in_the_last_digit, PARAMS)) for _ in range(8)) < 5e-5


def test_detections(detector):
    found = compiled(
        lambda params: detect(
            detector, params, cases.images(), jnp.asarray(cases.SIZES, jnp.float32)
        )
    )(PARAMS)
    assert not np.asarray(found.cut).any()
    for image in range(2):
        theirs = {
            name: GOLDEN[f"found/{image}/{name}"]
            for name in ("boxes", "scores", "classes", "masks")
        }
        count = len(theirs["boxes"])
        assert int(found.valid[image].sum()) == count
        np.testing.assert_allclose(found.scores[image, :count], theirs["scores"], atol=2e-4)
        # Of equal scores the order may differ, and what follows from it.
        same = np.abs(found.boxes[image, :count] - theirs["boxes"]).max(axis=1) < 0.02
        same &= np.asarray(found.classes[image, :count]) == theirs["classes"]
        assert same.mean() > 0.95
        masks = np.abs(found.masks[image, :10] - theirs["masks"]).max(axis=(1, 2))
        assert (masks[same[:10]] < 2e-3).all()
