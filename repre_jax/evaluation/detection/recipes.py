"""The numbers of training a Mask R-CNN as the papers do it, by name.

vitdet   detectron2, projects/ViTDet/configs/COCO/mask_rcnn_vitdet_{b,l,h}_*.py, with
         configs/common/models/mask_rcnn_vitdet.py and projects/ViTDet/configs/common/
         coco_loader_lsj.py: a plain ViT, large-scale jitter, deeper heads with norms. LoMaR and
         RePre on a ViT name no recipe of their own.
swin_1x  SwinTransformer/Swin-Transformer-Object-Detection, configs/swin/mask_rcnn_swin_tiny_
         patch4_window7_mstrain_480-800_adamw_1x_coco.py, as MoBY uses it; RePre's text, "short edge
         800", reads as one size (recipe.short_edges=(800,), recipe.crop=False).

Both optimize with AdamW. Departures of both: room for 100 objects of an image, those without are
counted (objects_left_out); RoIAlign takes 2 x 2 samples a bin, not as many as it has cells; masks
are cut from 112 x 112 numbers of their boxes, not from images; losses are means over the batch of
all devices. ViTDet's large images are shrunk by means of areas, and images with a side below 32
pixels are left out, as in mmdetection. Departures of swin_1x: batches are padded to one of two
shapes, 800 x 1344 or 1344 x 800, where the source pads each to its largest image (it keeps upright
images from flat ones, too, by the image and not by the crop); boxes of cut objects are those of
what is left of their masks, as in ViTDet, and not the cut boxes; what shrinks is a mean of areas,
where OpenCV's bilinear looks at four pixels; a delta cannot enlarge a box more than 62.5 times, but
shrink it at will.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from repre_jax.data.detection.views import DetectionViews
from repre_jax.errors import UserError
from repre_jax.evaluation.recipes import departures, for_model, replaced
from repre_jax.models.detection.detector import DetectorForm
from repre_jax.ranges import (
    AT_LEAST_ONE,
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_SHARE,
    SHARE,
    SHARE_BELOW_ONE,
    Range,
)


@dataclasses.dataclass(frozen=True)
class DetectionRecipe:
    """Numbers of one training of a detector.

    Attributes:
      epochs: length; may be a fraction.
      batch_size: images a step, over all devices.
      learning_rate: of the last layer, as it is: it is not scaled with the batch.
      warmup_steps: of a linear warm-up from a thousandth of the rate.
      drops: shares of the training after which the rate is a tenth of what it was.
      weight_decay: of AdamW, on everything but norms and positions.
      layer_decay: factor from a layer's learning rate to that of the layer below; 1 for none.
      train_encoder: False leaves the encoder as it is; the rest learns on its maps.
      drop_path: of the encoder's last block.
      window: of a ViT's attention, in patches.
      remat: what of the encoder's blocks the backward pass computes again, for memory: "none",
        "attention" or "block".
      scales: of the jitter, smallest and largest size, as shares of ``image_size``.
      short_edges: in place of the jitter, lengths of the short edge in pixels, the largest of which
        is that at test; () for the jitter, and at test images as large as fit.
      longest: what the long edge may become beside them, in pixels.
      crop: whether half of the images with short edges are crops.
      buckets: short sides of the canvases that the images of a batch lie in, upright or flat,
        beside ``image_size`` as their long one: each batch has the smallest that holds its images,
        and each is a compiled program; () for one square.
      flip_probability: horizontal flip.
      objects: of an image that there is room for.
      pyramid_width: channels of the pyramid.
      proposal_convolutions: of the proposal head.
      box_convolutions, box_layers, box_units: of the box head, and units of its layers.
      mask_convolutions: of the mask head.
      head_norms: whether the convolutions of box and mask head have norms.
      anchor_scale, anchors_sampled, before_suppression, proposals, regions_sampled: see
        ``models.detection.detector.DetectorForm``.
      own_anchors, low_quality, padding_multiple: see there; 0 is None.
    """

    epochs: float = 100.0
    batch_size: int = 64
    learning_rate: float = 1e-4
    warmup_steps: int = 250
    drops: tuple[float, ...] = (163889 / 184375, 177546 / 184375)
    weight_decay: float = 0.1
    layer_decay: float = 0.7
    train_encoder: bool = True
    drop_path: float = 0.1
    window: int = 14
    remat: str = "block"
    scales: tuple[float, float] = (0.1, 2.0)
    short_edges: tuple[int, ...] = ()
    longest: int = 1333
    crop: bool = False
    buckets: tuple[int, ...] = ()
    flip_probability: float = 0.5
    objects: int = 100
    pyramid_width: int = 256
    proposal_convolutions: int = 2
    box_convolutions: int = 4
    box_layers: int = 1
    box_units: int = 1024
    mask_convolutions: int = 4
    head_norms: bool = True
    anchor_scale: float = 8.0
    anchors_sampled: int = 256
    own_anchors: bool = False
    low_quality: float = 0.0
    padding_multiple: int = 0
    before_suppression: tuple[int, int] = (2000, 1000)
    proposals: int = 1000
    regions_sampled: int = 512


RECIPES = {
    "vitdet": DetectionRecipe(),
    "swin_1x": DetectionRecipe(
        epochs=12.0,
        batch_size=16,
        warmup_steps=500,
        drops=(8 / 12, 11 / 12),
        weight_decay=0.05,
        layer_decay=1.0,
        remat="none",
        short_edges=tuple(range(480, 801, 32)),
        crop=True,
        buckets=(800,),
        proposal_convolutions=1,
        box_convolutions=0,
        box_layers=2,
        head_norms=False,
        own_anchors=True,
        low_quality=0.3,
        padding_multiple=32,
    ),
}

# What a recipe has for other encoders than ViT-B.
FOR_MODEL = {
    ("vitdet", "vit_large"): {"drop_path": 0.4, "layer_decay": 0.8},
    ("vitdet", "vit_huge"): {"drop_path": 0.5, "layer_decay": 0.9, "epochs": 75.0},
}


def protocol_of_backbone(model_name: str) -> str:
    """Swin's recipe for Swin, ViTDet's for ViT."""
    return "swin_1x" if model_name.startswith("swin") else "vitdet"


def published_recipe(protocol: str, model_name: str) -> DetectionRecipe:
    """The protocol's recipe for an encoder; what has none of its own gets that of ViT-B or Swin.

    Args:
      protocol: a key of ``RECIPES``.
      model_name: a key of ``models.BACKBONES``.
    """
    return for_model(RECIPES, FOR_MODEL, protocol, model_name)


def with_changes(recipe: DetectionRecipe, changes: Mapping[str, Any]) -> DetectionRecipe:
    """The recipe with those fields replaced that ``changes`` sets.

    Args:
      recipe: of ``published_recipe``.
      changes: field -> value, None for the recipe's.

    Raises:
      UserError: a value that cannot be trained with, or that nothing reads.
    """
    recipe = replaced(recipe, changes, RANGES)
    _check_read(recipe, changes)
    if len(recipe.scales) != 2 or recipe.scales[0] > recipe.scales[1]:
        raise UserError(f"recipe.scales={recipe.scales} must be two numbers that rise.")
    if len(recipe.before_suppression) != 2:
        raise UserError(
            f"recipe.before_suppression={recipe.before_suppression} must be two numbers, of "
            "training and of test."
        )
    for name in ("drops", "buckets"):
        if list(getattr(recipe, name)) != sorted(getattr(recipe, name)):
            raise UserError(f"recipe.{name}={getattr(recipe, name)} must rise.")
    return recipe


def _check_read(recipe: DetectionRecipe, changes: Mapping[str, Any]) -> None:
    """Raises UserError for a change that would be printed, and change nothing."""
    unread = []
    if not recipe.train_encoder:
        unread += [(name, "recipe.train_encoder=False") for name in ("drop_path", "layer_decay")]
    if not recipe.short_edges:
        unread += [(name, "recipe.short_edges=()") for name in ("longest", "crop")]
    nothing = {"drop_path": 0.0, "layer_decay": 1.0, "crop": False}  # so it is without them
    for name, why in unread:
        if changes.get(name) not in (None, nothing.get(name)):
            raise UserError(
                f"recipe.{name}={changes[name]} is given, and with {why} nothing reads it: leave "
                "it out."
            )


def check_canvases(recipe: DetectionRecipe, side: int, *, shapes_are_free: bool) -> None:
    """Whether images fit.

    Args:
      recipe: of ``with_changes``.
      side: config.image_size.
      shapes_are_free: whether the encoder takes images of several shapes.

    Raises:
      UserError: they do not.
    """
    if recipe.short_edges and recipe.longest > side:
        raise UserError(
            f"recipe.longest={recipe.longest} does not fit into image_size={side}: images lie in "
            "the corner of canvases with that side."
        )
    if not recipe.buckets:
        return
    if not shapes_are_free:
        raise UserError(
            f"recipe.buckets={recipe.buckets}, but this encoder has positions of one square: set "
            "recipe.buckets=()."
        )
    if not recipe.short_edges or not max(recipe.short_edges) <= recipe.buckets[-1] <= side:
        raise UserError(
            f"recipe.buckets={recipe.buckets} must end between the longest of recipe.short_edges="
            f"{recipe.short_edges} and image_size={side}; recipe.buckets=() is one square."
        )


def views_of(recipe: DetectionRecipe, side: int) -> DetectionViews:
    """What happens to images."""
    return DetectionViews(
        side=side,
        scales=recipe.scales,
        short_edges=recipe.short_edges,
        longest=recipe.longest,
        crop=recipe.crop,
        buckets=recipe.buckets,
        flip_probability=recipe.flip_probability,
        objects=recipe.objects,
    )


def form_of(recipe: DetectionRecipe, classes: int) -> DetectorForm:
    """The detector's numbers."""
    fields = {field.name for field in dataclasses.fields(DetectorForm)}
    given = {name: value for name, value in vars(recipe).items() if name in fields}
    given["padding_multiple"] = recipe.padding_multiple or None
    return DetectorForm(classes=classes, **given)


def described(recipe: DetectionRecipe, published: DetectionRecipe, side: int) -> str:
    """The recipe in a sentence, for the results, and what differs from the published one."""
    images = f"jitter from {recipe.scales[0]:g} to {recipe.scales[1]:g}"
    if recipe.short_edges:
        edges = f"{min(recipe.short_edges)} to {max(recipe.short_edges)}"
        images = f"short edges {edges}, {'with' if recipe.crop else 'without'} crops"
        # detect/folder.py has a jitter of its own, which nobody need take back.
        recipe = dataclasses.replace(recipe, scales=published.scales)
    encoder = f"layer decay {recipe.layer_decay:g}, drop path {recipe.drop_path:g}"
    return (
        f"Mask R-CNN at {side} pixels, {recipe.epochs:g} epochs of AdamW at batch "
        f"{recipe.batch_size}, learning rate {recipe.learning_rate:g} with {recipe.warmup_steps} "
        f"steps of warm-up and drops after {', '.join(f'{d:.3g}' for d in recipe.drops)} of them, "
        f"weight decay {recipe.weight_decay:g}, "
        f"{encoder if recipe.train_encoder else 'encoder frozen'}, {images}"
        f"{departures(recipe, published)}"
    )


_WHOLE = Range(0, whole=True)
RANGES = {
    f"recipe.{name}": allowed
    for name, allowed in {
        "epochs": POSITIVE,
        "batch_size": AT_LEAST_ONE,
        "learning_rate": POSITIVE,
        "warmup_steps": _WHOLE,
        "drops": SHARE,
        "weight_decay": NOT_NEGATIVE,
        "layer_decay": POSITIVE_SHARE,
        "drop_path": SHARE_BELOW_ONE,
        "window": AT_LEAST_ONE,
        "scales": Range(0, 10, low_open=True),
        "short_edges": AT_LEAST_ONE,
        "longest": AT_LEAST_ONE,
        "buckets": AT_LEAST_ONE,
        "flip_probability": SHARE,
        "objects": AT_LEAST_ONE,
        "pyramid_width": AT_LEAST_ONE,
        "proposal_convolutions": _WHOLE,
        "box_convolutions": _WHOLE,
        "box_layers": _WHOLE,
        "box_units": AT_LEAST_ONE,
        "mask_convolutions": _WHOLE,
        "anchor_scale": POSITIVE,
        "anchors_sampled": Range(2, whole=True),
        "low_quality": SHARE,
        "padding_multiple": _WHOLE,
        "before_suppression": AT_LEAST_ONE,
        "proposals": AT_LEAST_ONE,
        "regions_sampled": Range(4, whole=True),
    }.items()
}
