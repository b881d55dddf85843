"""A batch through a convolutional stem, whose BatchNorm wants all of it, before micro-batches part.

It keeps about a block's worth of activations of the whole batch in memory.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from repre_jax.models.conv_stem import conv_stem
from repre_jax.models.pixels import encoder_input


def pass_stem(
    encoder: nn.Module, params: Any, statistics: Any, views: dict[str, jax.Array]
) -> tuple[dict[str, jax.Array], Any]:
    """What the trunk of an encoder takes in place of views, and the statistics that this leaves.

    Views pass one after the other, so that each has BatchNorm statistics of its own, as in
    facebookresearch/moco-v3, moco/builder.py, forward.

    Args:
      encoder: of ``models``.
      params: its parameters.
      statistics: running statistics of its network, "encoder" among them.
      views: float32 in [0, 1], "global" [B, V, H, W, C] and perhaps "local" [B, n, s, s, C].

    Returns:
      ({"global" [B, V, gh, gw, D], "local"?}, {"encoder": new statistics}), both {} for an encoder
      without such a stem.
    """
    stem = conv_stem(encoder)
    if stem is None:
        return {}, {}
    running, maps = statistics["encoder"]["patch_embed"], {}
    for name in ("global", "local"):
        if name not in views:
            continue
        found = []
        for view in jnp.unstack(views[name], axis=1):
            one, updated = stem.apply(
                {"params": params["patch_embed"], "batch_stats": running},
                encoder_input(encoder, view),
                train=True,
                mutable=["batch_stats"],
            )
            running = updated["batch_stats"]
            found.append(one)
        maps[name] = jnp.stack(found, axis=1)
    return maps, {"encoder": {"patch_embed": running}}
