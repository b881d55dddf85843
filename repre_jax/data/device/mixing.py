"""Mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899) of a whole batch, on the device.

As timm's ``Mixup`` in batch mode (timm/data/mixup.py), which MAE, DeiT and SimMIM fine-tune with:
one draw for the whole batch, every image mixed with the one opposite in the reversed batch, label
smoothing folded into the soft targets. Both mixtures are one map of weights over the pixels:
constant for mixup, 0 inside a box and 1 outside for CutMix.
"""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class MixRecipe:
    """Numbers of the mixture.

    Attributes:
      mixup: alpha of the Beta(alpha, alpha) that mixup's share is drawn from; 0 for no mixup.
      cutmix: the same for CutMix; 0 for no CutMix.
      probability: that a batch is mixed at all.
      switch: probability of CutMix where both are on.
      smoothing: label smoothing; every class gets smoothing / C, the right one the rest.
    """

    mixup: float = 0.8
    cutmix: float = 1.0
    probability: float = 1.0
    switch: float = 0.5
    smoothing: float = 0.1


def mix(
    key: jax.Array, images: jax.Array, labels: jax.Array, recipe: MixRecipe, *, classes: int
) -> tuple[jax.Array, jax.Array]:
    """Mixes a batch with itself, reversed.

    Args:
      key: of this batch's draws.
      images: float [B, H, W, 3].
      labels: int [B], each in [0, classes).
      recipe: static.
      classes: C.

    Returns:
      (images [B, H, W, 3], soft targets float32 [B, C] whose rows sum to 1).
    """
    share = jnp.float32(1)
    if recipe.mixup or recipe.cutmix:
        weights, share = draw_weights(key, images.shape[1:3], recipe)
        images = mix_images(images, weights)
    return images, soft_targets(labels, share, classes=classes, smoothing=recipe.smoothing)


def draw_weights(
    key: jax.Array, size: tuple[int, int], recipe: MixRecipe
) -> tuple[jax.Array, jax.Array]:
    """(weight of the image itself at each pixel [H, W], its share in the target, a scalar).

    One of ``recipe.mixup`` and ``recipe.cutmix`` must be on.
    """
    use_key, switch_key, share_key, centre_key = jax.random.split(key, 4)
    switch = recipe.switch if recipe.mixup and recipe.cutmix else float(recipe.cutmix > 0)
    cut = jax.random.bernoulli(switch_key, switch)
    alpha = jnp.where(cut, recipe.cutmix or 1.0, recipe.mixup or 1.0)
    share = jax.random.beta(share_key, alpha, alpha)
    share = jnp.where(jax.random.bernoulli(use_key, recipe.probability), share, 1.0)
    centre = jax.random.randint(centre_key, (2,), 0, jnp.asarray(size))
    cut_weights = cutmix_weights(size, share, centre)
    weights = jnp.where(cut, cut_weights, share)
    # The box may reach over the border: what is left of it counts (timm: correct_lam).
    return weights, jnp.where(cut, jnp.mean(cut_weights), share)


def cutmix_weights(size: tuple[int, int], share: jax.Array, centre: jax.Array) -> jax.Array:
    """float32 [H, W]: 0 inside a box of the partner's pixels, 1 outside.

    Args:
      size: (H, W).
      share: of the image itself, before the box is clipped; the sides are (H, W) sqrt(1 - share),
        rounded down. (timm before 1.0, which MAE used, makes odd sides one pixel shorter.)
      centre: int [2], row and column.
    """
    cut = jnp.floor(jnp.asarray(size) * jnp.sqrt(1 - share)).astype(jnp.int32)
    first, end = centre - cut // 2, centre + (cut + 1) // 2
    inside = [
        (jnp.arange(side) >= first[axis]) & (jnp.arange(side) < end[axis])
        for axis, side in enumerate(size)
    ]
    return 1.0 - (inside[0][:, None] & inside[1][None]).astype(jnp.float32)


def mix_images(images: jax.Array, weights: jax.Array) -> jax.Array:
    """images * weights + reversed batch * (1 - weights); weights [H, W]."""
    weights = weights[..., None].astype(images.dtype)
    return images * weights + images[::-1] * (1 - weights)


def soft_targets(
    labels: jax.Array, share: jax.Array, *, classes: int, smoothing: float
) -> jax.Array:
    """float32 [B, C]: smoothed one-hot labels, ``share`` of the row's own, the rest its partner's.

    Args:
      labels: int [B].
      share: of the row's own label, in [0, 1].
      classes: C.
      smoothing: in [0, 1).
    """
    own = jax.nn.one_hot(labels, classes) * (1 - smoothing) + smoothing / classes
    return own * share + own[::-1] * (1 - share)
