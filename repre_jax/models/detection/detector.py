"""Mask R-CNN as functions of parameters and images: features, proposals, detections.

Shapes are fixed: every stage has so many slots, and says which of them are in use. Boxes, scores
and whatever is compared are float32 whatever the compute dtype. ``losses.py`` trains it.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from repre_jax.models.detection import boxes as geometry
from repre_jax.models.detection.anchors import RATIOS, all_anchors
from repre_jax.models.detection.roi_align import roi_align
from repre_jax.models.detection.suppression import suppress
from repre_jax.models.taps import apply_with_taps

BOX_BINS, MASK_BINS = 7, 14
MASK_SIDE = 2 * MASK_BINS
# Of which the best are kept, by class: more would survive a suppression only on crowded images.
_CANDIDATES = 1000


@dataclasses.dataclass(frozen=True)
class DetectorForm:
    """Numbers of a detector; the defaults are detectron2's and mmdetection's alike.

    Attributes:
      classes: C, without background.
      anchor_scale: side of a square anchor in strides of its level.
      anchors_sampled: anchors of an image that are trained on.
      anchors_positive: share of them that is positive at most.
      own_anchors: whether an anchor that an object claims for want of better ones is to find that
        object (``matching.with_low_quality``).
      low_quality: the smallest overlap of such a claim.
      before_suppression: best anchors of a level that become proposals, in training and at test.
      proposals: of an image.
      proposal_overlap: above it, the better proposal of a level suppresses the other.
      regions_sampled: proposals of an image that are trained on.
      regions_positive: share of them that is positive at most.
      score_threshold: detections below it are dropped.
      detection_overlap: above it, the better detection of a class suppresses the other.
      detections: of an image, at most.
      padding_multiple: images are padded to multiples of it, and anchors beyond an image's own
        padding take no part; None where all images are of one size, padding included.
    """

    classes: int
    anchor_scale: float = 8.0
    anchors_sampled: int = 256
    anchors_positive: float = 0.5
    own_anchors: bool = False
    low_quality: float = 0.0
    before_suppression: tuple[int, int] = (2000, 1000)
    proposals: int = 1000
    proposal_overlap: float = 0.7
    regions_sampled: int = 512
    regions_positive: float = 0.25
    score_threshold: float = 0.05
    detection_overlap: float = 0.5
    detections: int = 100
    padding_multiple: int | None = None


@dataclasses.dataclass(frozen=True)
class Detector:
    """Mask R-CNN on an encoder, apart from its parameters.

    Attributes:
      encoder: module that sows its maps (``taps``).
      blocks: of it, whose maps the neck takes.
      neck: maps -> levels of a pyramid.
      proposal_head, box_head, mask_head: of ``heads``.
      strides: pixels per side that a vector of each level stands for.
      form: the numbers.
      mesh: devices that the batch is split over, by rows; None for one.
    """

    encoder: nn.Module
    blocks: tuple[int, ...]
    neck: nn.Module
    proposal_head: nn.Module
    box_head: nn.Module
    mask_head: nn.Module
    strides: tuple[int, ...]
    form: DetectorForm
    mesh: Mesh | None = None

    def init_heads(self, key: jax.Array, maps: Sequence[jax.ShapeDtypeStruct]) -> dict[str, Any]:
        """Fresh parameters of everything but the encoder, whose maps have these shapes."""
        of_neck, *others = jax.random.split(key, 4)
        zeros = [jnp.zeros((1, *x.shape[1:]), x.dtype) for x in maps]
        levels, neck = self.neck.init_with_output(of_neck, zeros)
        width = levels[0].shape[-1]
        shapes = (None, BOX_BINS, MASK_BINS)
        inputs = [levels if n is None else jnp.zeros((1, n, n, width)) for n in shapes]
        heads = (self.proposal_head, self.box_head, self.mask_head)
        parts = [
            head.init(own, x)["params"] for head, own, x in zip(heads, others, inputs, strict=True)
        ]
        names = ("proposal_head", "box_head", "mask_head")
        return {"neck": neck["params"], **dict(zip(names, parts, strict=True))}

    def maps(self, params: Any, images: jax.Array, **options: Any) -> list[jax.Array]:
        """Maps of the encoder's blocks, of images as it takes them."""
        variables = {"params": params["encoder"]}
        return apply_with_taps(self.encoder, variables, images, self.blocks, **options)[1]

    def levels(self, params: Any, maps: Sequence[jax.Array]) -> list[jax.Array]:
        """The pyramid."""
        return self.neck.apply({"params": params["neck"]}, maps)

    def regions(self, head: str, params: Any, levels: Sequence[jax.Array], boxes: jax.Array) -> Any:
        """What a head says of boxes [B, R, 4]: arrays [B, R, ...]."""
        bins = BOX_BINS if head == "box_head" else MASK_BINS
        # The last level is for the largest anchors only.
        features = roi_align(levels[:-1], self.strides[:-1], boxes, bins)
        found = getattr(self, head).apply(
            {"params": params[head]}, features.reshape(-1, *features.shape[2:])
        )
        return jax.tree.map(lambda x: x.reshape(*boxes.shape[:2], *x.shape[1:]), found)

    def each_image(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """``function`` of every row, on the device where the row is.

        A loop that goes on until it has settled would otherwise wait for the slowest image of all
        devices in every round.
        """
        mapped = jax.vmap(function)
        if self.mesh is not None:
            rows = PartitionSpec("batch")
            mapped = jax.shard_map(mapped, mesh=self.mesh, in_specs=rows, out_specs=rows)
        return mapped(*arguments)


class Proposals(NamedTuple):
    """Regions that may hold an object.

    Attributes:
      boxes: float32 [B, P, 4], by falling score.
      valid: bool [B, P].
    """

    boxes: jax.Array
    valid: jax.Array


class Detections(NamedTuple):
    """What was found in images.

    Attributes:
      boxes: float32 [B, n, 4] in pixels of the images as they were given, by falling score.
      scores: float32 [B, n].
      classes: int32 [B, n].
      valid: bool [B, n].
      masks: float32 [B, n, 28, 28], probabilities in the boxes' coordinates.
      cut: bool [B], whether more candidates than were looked at might have added to them.
    """

    boxes: jax.Array
    scores: jax.Array
    classes: jax.Array
    valid: jax.Array
    masks: jax.Array
    cut: jax.Array


def anchors_of(detector: Detector, levels: Sequence[jax.Array]) -> list[jax.Array]:
    """float32 [A, 4] of each level, constants."""
    grids = [level.shape[1:3] for level in levels]
    return all_anchors(grids, detector.strides, scale=detector.form.anchor_scale)


def anchors_in_use(
    detector: Detector, levels: Sequence[jax.Array], size: jax.Array
) -> list[jax.Array] | None:
    """bool [B, A] of each level: whose cells lie within an image's own padding; None for all.

    Args:
      detector: of whose form it is.
      levels: the pyramid.
      size: float32 [B, 2], (height, width) of the images.
    """
    multiple = detector.form.padding_multiple
    if multiple is None:
        return None
    padded = jnp.ceil(size / multiple) * multiple
    in_use = []
    for level, stride in zip(levels, detector.strides, strict=True):
        places = [jnp.arange(side) * stride for side in level.shape[1:3]]
        inside = (places[0] < padded[:, :1])[:, :, None] & (places[1] < padded[:, 1:])[:, None]
        in_use.append(jnp.repeat(inside.reshape(len(size), -1), len(RATIOS), axis=1))
    return in_use


def propose(
    detector: Detector,
    found: Sequence[tuple[jax.Array, jax.Array]],
    levels: Sequence[jax.Array],
    size: jax.Array,
    *,
    train: bool,
) -> Proposals:
    """The best anchors, moved, without those that a better one of the same level overlaps.

    Args:
      detector: of whose form it is.
      found: of the ``ProposalHead``.
      levels: the pyramid.
      size: float32 [B, 2], (height, width) that boxes are clipped to.
      train: whether it is for training.
    """
    form = detector.form
    limit = form.before_suppression[0 if train else 1]
    slots = min(limit, max(logits.shape[1] for logits, _ in found))
    in_use = anchors_in_use(detector, levels, size) or [None] * len(levels)
    chosen = []
    for (logits, deltas), anchors, used in zip(
        found, anchors_of(detector, levels), in_use, strict=True
    ):
        if used is not None:
            logits = jnp.where(used, logits, -jnp.inf)
        best, index = jax.lax.top_k(logits, min(slots, logits.shape[1]))
        deltas = jnp.take_along_axis(deltas, index[..., None], axis=1)
        boxes = geometry.decode(deltas, jnp.asarray(anchors)[index], geometry.PROPOSAL_DEVIATIONS)
        boxes = geometry.clip(boxes, size[:, None])
        best = jnp.where(geometry.area(boxes) > 0, best, -jnp.inf)
        missing = slots - best.shape[1]
        best = jnp.pad(best, ((0, 0), (0, missing)), constant_values=-jnp.inf)
        chosen.append((jnp.pad(boxes, ((0, 0), (0, missing), (0, 0))), best))
    boxes, scores = (jnp.stack(part, axis=1) for part in zip(*chosen, strict=True))
    boxes, scores = jax.lax.stop_gradient((boxes, scores))

    def keep(boxes, scores):  # of one image, [L, K, ...]
        # Without extent, or NaN: a score of minus infinity is no proposal's.
        valid = scores > -jnp.inf
        kept = jax.vmap(lambda b, v: suppress(b, v, form.proposal_overlap))(boxes, valid)
        scores = jnp.where(kept, scores, -jnp.inf).reshape(-1)
        best, index = jax.lax.top_k(scores, min(form.proposals, len(scores)))
        return boxes.reshape(-1, 4)[index], best > -jnp.inf

    return Proposals(*detector.each_image(keep, boxes, scores))


def detect(detector: Detector, params: Any, images: jax.Array, size: jax.Array) -> Detections:
    """Objects in images [B, H, W, C] as the encoder takes them, of ``size`` float32 [B, 2]."""
    form = detector.form
    levels = detector.levels(params, detector.maps(params, images))
    found = detector.proposal_head.apply({"params": params["proposal_head"]}, levels)
    proposals = propose(detector, found, levels, size, train=False)
    logits, deltas = detector.regions("box_head", params, levels, proposals.boxes)
    scores = jax.nn.softmax(logits, axis=-1)[..., :-1]
    boxes = geometry.decode(deltas, proposals.boxes[:, :, None])
    boxes = geometry.clip(boxes, size[:, None, None])
    usable = proposals.valid[..., None] & (scores > form.score_threshold)
    usable &= geometry.area(boxes) > 0
    scores = jnp.where(usable, scores, 0)

    def choose(boxes, scores):  # of one image, [P, C, ...]
        flat = scores.reshape(-1)
        best, index = jax.lax.top_k(flat, min(_CANDIDATES, len(flat)))
        candidates, classes = boxes.reshape(-1, 4)[index], index % form.classes
        kept = suppress(candidates, best > 0, form.detection_overlap, classes)
        best, order = jax.lax.top_k(jnp.where(kept, best, 0), min(form.detections, len(best)))
        cut = (jnp.sum(flat > 0) > len(index)) & (jnp.sum(kept) < form.detections)
        return candidates[order], best, classes[order], best > 0, cut

    boxes, scores, classes, valid, cut = detector.each_image(choose, boxes, scores)
    masks = detector.regions("mask_head", params, levels, boxes)
    own = jnp.take_along_axis(masks, classes[:, :, None, None, None], axis=-1)[..., 0]
    return Detections(boxes, scores, classes, valid, jax.nn.sigmoid(own), cut)
