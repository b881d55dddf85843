"""Which objects anchors and regions are to find, and which fixed number of them is trained on."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1
# Overlaps that the same numbers give in two fused computations differ by less.
_TIE = 1e-6


class Matches(NamedTuple):
    """What boxes are to find.

    Attributes:
      object: int32 [N], number of the object; of overlap 0 where there is none.
      label: int32 [N]: POSITIVE, NEGATIVE, or IGNORED.
    """

    object: jax.Array
    label: jax.Array


class Sample(NamedTuple):
    """The boxes that are trained on, a fixed number of slots.

    Attributes:
      index: int32 [S], numbers of the boxes, positive ones first.
      positive: bool [S].
      negative: bool [S]; where neither, the slot is empty.
    """

    index: jax.Array
    positive: jax.Array
    negative: jax.Array


def match(
    overlaps: jax.Array, valid: jax.Array, *, negative_below: float, positive_from: float
) -> Matches:
    """Every box gets the object that it overlaps most (Faster R-CNN, section 3.1.2).

    Args:
      overlaps: float32 [G, N], of objects and boxes.
      valid: bool [G]; the other objects are padding.
      negative_below: boxes that overlap no object so much are background.
      positive_from: boxes that overlap one so much are to find it.
    """
    best, number = _best(overlaps, valid)
    label = jnp.where(best < negative_below, NEGATIVE, IGNORED)
    return Matches(number, jnp.where(best >= positive_from, POSITIVE, label))


def with_low_quality(
    matches: Matches, overlaps: jax.Array, valid: jax.Array, *, at_least: float, own: bool
) -> Matches:
    """Makes the boxes that overlap an object most positive, however little that is.

    Args:
      matches: of ``match``.
      overlaps, valid: as for ``match``.
      at_least: the smallest overlap of those.
      own: whether they are to find that object, the last one if there are several (mmdetection,
        core/bbox/assigners/max_iou_assigner.py), or the one that they overlap most (detectron2,
        modeling/matcher.py).
    """
    floor = jnp.maximum(at_least, _TIE)  # padding and what overlaps nothing
    most = jnp.max(overlaps, axis=1, keepdims=True)
    claims = (overlaps >= most - _TIE) & (overlaps >= floor) & valid[:, None]
    claimed = jnp.any(claims, axis=0)
    number = matches.object
    if own:
        last = len(valid) - 1 - jnp.argmax(claims[::-1], axis=0)
        number = jnp.where(claimed, last, number)
    return Matches(number.astype(jnp.int32), jnp.where(claimed, POSITIVE, matches.label))


def sample(key: jax.Array, label: jax.Array, *, count: int, positive_share: float) -> Sample:
    """A random choice of at most ``positive_share`` positives, filled up with negatives.

    Args:
      key: of the image.
      label: int32 [N], of ``Matches``.
      count: S, slots.
      positive_share: of them, at most.
    """
    slots = min(count, len(label))
    limit = min(int(count * positive_share), slots)
    draw = jax.random.uniform(key, label.shape)
    positives, wanted = (jnp.sum(label == POSITIVE), jnp.arange(slots))
    positives = jnp.minimum(positives, limit)
    # Draws lie in [0, 1), so what is not of the kind comes last.
    first = jax.lax.top_k(jnp.where(label == POSITIVE, draw, -1), limit)[1]
    others = jax.lax.top_k(jnp.where(label == NEGATIVE, draw, -1), slots)[1]
    is_positive = wanted < positives
    is_negative = ~is_positive & (wanted - positives < jnp.sum(label == NEGATIVE))
    index = jnp.where(
        is_positive,
        jnp.pad(first, (0, slots - limit)),
        others[jnp.maximum(wanted - positives, 0)],
    )
    return _padded(Sample(index, is_positive, is_negative), count - slots)


def _padded(sample: Sample, slots: int) -> Sample:
    return Sample(*(jnp.pad(part, (0, slots)) for part in sample))


def _best(overlaps, valid):
    overlaps = jnp.where(valid[:, None], overlaps, 0)
    return jnp.max(overlaps, axis=0), jnp.argmax(overlaps, axis=0).astype(jnp.int32)
