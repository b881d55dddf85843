"""Non-maximum suppression of a fixed number of boxes, exact, without a loop over boxes."""

import jax
import jax.numpy as jnp

from repre_jax.models.detection.boxes import intersection_over_union


def suppress(
    boxes: jax.Array, valid: jax.Array, threshold: float, classes: jax.Array | None = None
) -> jax.Array:
    """Which boxes the greedy algorithm keeps: those that no better kept box overlaps.

    "Box i is kept unless a kept box before it overlaps it" has one solution, the greedy one. It is
    reached by iterating from "all are kept": after k rounds the first k boxes are settled, and in
    practice 2 to 8 rounds settle thousands, each a masked reduction over the pairs.

    Args:
      boxes: float32 [N, 4], by falling score.
      valid: bool [N]; others are neither kept nor do they suppress.
      threshold: overlaps above it suppress.
      classes: int [N], of which only equal ones suppress each other; None for one class.

    Returns:
      bool [N].
    """
    overlaps = intersection_over_union(boxes, boxes) > threshold
    before = jnp.arange(len(boxes))
    suppresses = overlaps & (before[:, None] < before)
    if classes is not None:
        suppresses &= classes[:, None] == classes

    def unsettled(carry):
        kept, previous = carry
        return jnp.any(kept != previous)

    def settle(carry):
        kept, _ = carry
        return valid & ~jnp.any(suppresses & kept[:, None], axis=0), kept

    # The first round is written out: nothing was kept before "all are kept".
    first = valid & ~jnp.any(suppresses & valid[:, None], axis=0)
    kept, _ = jax.lax.while_loop(unsettled, settle, (first, valid))
    return kept
