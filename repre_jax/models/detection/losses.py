"""The five losses of Mask R-CNN on images whose objects are padded to a fixed number.

Sources: detectron2, modeling/proposal_generator/rpn.py, modeling/roi_heads/fast_rcnn.py and
mask_head.py, modeling/matcher.py; mmdetection, mmdet/models/dense_heads and roi_heads. Means are
over the global batch, where both average over the images of a device first. The losses of anchors
are over the number that is sampled when there are enough (detectron2).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from repre_jax.models.detection import boxes as geometry
from repre_jax.models.detection.detector import (
    MASK_SIDE,
    Detector,
    anchors_in_use,
    anchors_of,
    propose,
)
from repre_jax.models.detection.masks import mask_targets
from repre_jax.models.detection.matching import (
    IGNORED,
    Sample,
    match,
    sample,
    with_low_quality,
)


class Objects(NamedTuple):
    """What is to be found, padded to G objects an image.

    Attributes:
      boxes: float32 [B, G, 4] in pixels.
      classes: int32 [B, G].
      valid: bool [B, G].
      masks: uint8 [B, G, S, S], 0 or 1 in the boxes' coordinates.
      size: float32 [B, 2], (height, width) of the images, padding left out.
    """

    boxes: jax.Array
    classes: jax.Array
    valid: jax.Array
    masks: jax.Array
    size: jax.Array


def detection_losses(
    detector: Detector,
    params: Any,
    maps: Sequence[jax.Array],
    objects: Objects,
    keys: jax.Array,
) -> dict[str, jax.Array]:
    """Scalars "objectness", "anchors", "classes", "boxes", "masks", whose sum is the loss.

    Args:
      detector: whose parameters ``params`` are.
      params: tree.
      maps: of ``Detector.maps``.
      objects: of the images.
      keys: [B], of the samples.
    """
    levels = detector.levels(params, maps)
    found = detector.proposal_head.apply({"params": params["proposal_head"]}, levels)
    of_anchors, of_regions = jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key))(keys), 1, 0)
    losses = _anchor_losses(detector, found, levels, objects, of_anchors)
    proposals = propose(detector, found, levels, objects.size, train=True)
    regions, number, chosen = _sampled_regions(detector, proposals, objects, of_regions)
    losses |= _box_losses(detector, params, levels, objects, regions, number, chosen)
    return losses | _mask_loss(detector, params, levels, objects, regions, number, chosen)


def _anchor_losses(detector, found, levels, objects, keys) -> dict[str, jax.Array]:
    form = detector.form
    anchors = jnp.concatenate(anchors_of(detector, levels))
    logits = jnp.concatenate([logits for logits, _ in found], axis=1)
    deltas = jnp.concatenate([deltas for _, deltas in found], axis=1)
    in_use = anchors_in_use(detector, levels, objects.size)
    in_use = jnp.concatenate(in_use, axis=1) if in_use else jnp.ones(logits.shape, bool)

    def choose(boxes, valid, in_use, key):  # of one image
        overlaps = geometry.intersection_over_union(boxes, anchors) * in_use
        matches = match(overlaps, valid, negative_below=0.3, positive_from=0.7)
        matches = with_low_quality(
            matches, overlaps, valid, at_least=form.low_quality, own=form.own_anchors
        )
        chosen = sample(
            key,
            jnp.where(in_use, matches.label, IGNORED),
            count=form.anchors_sampled,
            positive_share=form.anchors_positive,
        )
        return chosen, boxes[matches.object[chosen.index]]

    chosen, own = jax.vmap(choose)(objects.boxes, objects.valid, in_use, keys)
    logits = jnp.take_along_axis(logits, chosen.index, axis=1)
    deltas = jnp.take_along_axis(deltas, chosen.index[..., None], axis=1)
    total = form.anchors_sampled * len(logits)
    of_class = optax.sigmoid_binary_cross_entropy(logits, chosen.positive.astype(jnp.float32))
    wanted = geometry.encode(own, anchors[chosen.index], geometry.PROPOSAL_DEVIATIONS)
    of_box = jnp.abs(deltas - wanted).sum(axis=-1)
    return {
        "objectness": jnp.sum(of_class * (chosen.positive | chosen.negative)) / total,
        "anchors": jnp.sum(of_box * chosen.positive) / total,
    }


def _sampled_regions(detector, proposals, objects, keys) -> tuple[jax.Array, jax.Array, Sample]:
    """(boxes [B, S, 4], number of the object of each [B, S], which slots are what)."""
    form = detector.form
    # So that every object is found from the first step on, whatever is proposed.
    boxes = jnp.concatenate([objects.boxes, proposals.boxes], axis=1)
    in_use = jnp.concatenate([objects.valid, proposals.valid], axis=1)

    def choose(boxes, in_use, own, valid, key):  # of one image
        overlaps = geometry.intersection_over_union(own, boxes)
        matches = match(overlaps, valid, negative_below=0.5, positive_from=0.5)
        chosen = sample(
            key,
            jnp.where(in_use, matches.label, IGNORED),
            count=form.regions_sampled,
            positive_share=form.regions_positive,
        )
        return boxes[chosen.index], matches.object[chosen.index], chosen

    return jax.vmap(choose)(boxes, in_use, objects.boxes, objects.valid, keys)


def _box_losses(detector, params, levels, objects, regions, number, chosen) -> dict[str, jax.Array]:
    logits, deltas = detector.regions("box_head", params, levels, regions)
    own_class = jnp.take_along_axis(objects.classes, number, axis=1)
    own_box = jnp.take_along_axis(objects.boxes, number[..., None], axis=1)
    label = jnp.where(chosen.positive, own_class, detector.form.classes)
    used = chosen.positive | chosen.negative
    total = jnp.maximum(jnp.sum(used), 1)
    of_class = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    deltas = jnp.take_along_axis(deltas, own_class[..., None, None], axis=2)[:, :, 0]
    of_box = jnp.abs(deltas - geometry.encode(own_box, regions)).sum(axis=-1)
    return {
        "classes": jnp.sum(of_class * used) / total,
        "boxes": jnp.sum(of_box * chosen.positive) / total,
    }


def _mask_loss(detector, params, levels, objects, regions, number, chosen) -> dict[str, jax.Array]:
    form = detector.form
    # Positives come first, so the rest needs no masks.
    slots = min(int(form.regions_sampled * form.regions_positive), regions.shape[1])
    regions, number, positive = regions[:, :slots], number[:, :slots], chosen.positive[:, :slots]
    logits = detector.regions("mask_head", params, levels, regions)
    own_class = jnp.take_along_axis(objects.classes, number, axis=1)
    logits = jnp.take_along_axis(logits, own_class[:, :, None, None, None], axis=-1)[..., 0]

    def targets(masks, boxes, regions, number):  # of one image
        return mask_targets(masks[number], boxes[number], regions, MASK_SIDE)

    wanted = jax.vmap(targets)(objects.masks, objects.boxes, regions, number)
    each = optax.sigmoid_binary_cross_entropy(logits, wanted).mean(axis=(-2, -1))
    return {"masks": jnp.sum(each * positive) / jnp.maximum(jnp.sum(positive), 1)}
