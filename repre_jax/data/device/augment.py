"""Augments batches of views on the device: what is drawn, in which order, with which key.

Order: flip, jitter, grey, blur, solarise, as in DINO (main_dino.py, DataAugmentationDINO). MoCo v3
(main_moco.py) flips last; the flip commutes with every operator, so the views are the same. The
operators themselves are in ``photometric`` and ``blur``.
"""

import enum
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from repre_jax.data.device.blur import pillow_blur, sampled_blur
from repre_jax.data.device.photometric import (
    Planes,
    band_jitter,
    colour_jitter,
    flip,
    grey,
    jitter_order,
    solarise,
)
from repre_jax.data.pixel_format import as_shares
from repre_jax.data.recipes import TORCHVISION, ViewRecipe
from repre_jax.random_streams import Stream, example_keys


class _Purpose(enum.IntEnum):
    """What a draw is for. Values are part of what a seed means: append, never renumber."""

    FLIP = 0
    JITTER = 1
    ORDER = 2
    FACTORS = 3
    GREY = 4
    BLUR = 5
    SIGMA = 6
    SOLARISE = 7


def augment_views(
    batch: dict[str, jax.Array], recipe: ViewRecipe, seed: int
) -> dict[str, jax.Array]:
    """Augments all views of a batch; a row depends on its own pixels, index and epoch alone.

    Hue, saturation and conversion to grey are of RGB: images of other channels keep them, and
    jitter is of brightness and contrast alone.

    Every draw is a function of (seed, epoch, index, view, purpose), where the global views come
    first and the local crops follow. Hence pixels depend neither on the row's place in the
    batch nor on workers, hosts or devices.

    Args:
      batch: "global" uint8 or uint16 [B, V, H, W, C]; "local" [B, n, s, s, C] when the recipe has n
        local crops; "index" and "epoch" int32 [B].
      recipe: static. What has probability 0 is not compiled at all.
      seed: of every draw.

    Returns:
      {"global": float32 [B, V, H, W, C] in [0, 1], not normalised} and, when the recipe has local
      crops, "local": float32 [B, n, s, s, C].

    Raises:
      ValueError: pixels are not uint8 or uint16, or views are not as many as the recipe says.
    """
    _check_views(batch["global"], recipe.global_crops, "global")
    if recipe.local_crops:
        _check_views(batch["local"], recipe.local_crops, "local")
    augment = functools.partial(_augment_group, batch, recipe, seed)
    probabilities = recipe.blur_probability, recipe.solarise_probability
    augmented = {"global": augment(0, "global", *probabilities)}
    if n := recipe.local_crops:
        probabilities = (recipe.local_blur_probability,) * n, (0.0,) * n
        augmented["local"] = augment(recipe.global_crops, "local", *probabilities)
    return augmented


def _check_views(views: jax.Array, count: int, name: str) -> None:
    if views.dtype not in (jnp.uint8, jnp.uint16) or views.ndim != 5 or views.shape[1] != count:
        raise ValueError(
            f'"{name}" views must be uint8 or uint16 [B, {count}, H, W, C], '
            f"not {views.dtype} {list(views.shape)}"
        )


def _augment_group(
    batch: dict[str, jax.Array],
    recipe: ViewRecipe,
    seed: int,
    first_view: int,
    name: str,
    blur_probabilities: Sequence[float],
    solarise_probabilities: Sequence[float],
) -> jax.Array:
    """Augments the views of that name, one probability each: [B, V, H, W, C] -> float32."""
    examples = example_keys(seed, Stream.AUGMENTATION, batch["epoch"], batch["index"])
    views = first_view + jnp.arange(batch[name].shape[1])
    augment = jax.vmap(functools.partial(_augment_view, recipe))
    of_views = [
        jnp.asarray(own) if any(own) else None
        for own in (blur_probabilities, solarise_probabilities)
    ]

    def augment_row(example, row):
        keys = jax.vmap(lambda view: jax.random.fold_in(example, view))(views)
        return augment(keys, row, *of_views)

    return jax.vmap(augment_row)(examples, batch[name])


def _augment_view(
    recipe: ViewRecipe,
    key: jax.Array,
    pixels: jax.Array,
    blur_probability: jax.Array | None,
    solarise_probability: jax.Array | None,
) -> jax.Array:
    """One view: uint8 or uint16 [H, W, C] -> float32 in [0, 1]; probabilities None for never."""

    def draw(purpose):
        return jax.random.fold_in(key, purpose)

    def jitter(image):
        *strengths, hue = recipe.jitter
        low = jnp.asarray([*(max(0.0, 1 - s) for s in strengths), -hue])
        high = jnp.asarray([*(1 + s for s in strengths), hue])
        uniform = jax.random.uniform(draw(_Purpose.FACTORS), (4,))
        drawn = _drawn(low + (high - low) * uniform)
        order = _drawn(jitter_order(draw(_Purpose.ORDER)))
        if len(image) != 3:
            return band_jitter(image, drawn[:3], order[0], recipe.photometric)
        return colour_jitter(image, drawn[:3], drawn[3], *order, recipe.photometric)

    def blur(image):
        low, high = recipe.blur_sigma
        sigma = jax.random.uniform(draw(_Purpose.SIGMA), (), minval=low, maxval=high)
        # By a kernel that does nothing, not by a choice between two images: one less to read.
        chosen = jax.random.bernoulli(draw(_Purpose.BLUR), blur_probability)
        sigma = _drawn(jnp.where(chosen, sigma, 0))
        if recipe.photometric == TORCHVISION:
            return pillow_blur(image, sigma, high)
        return sampled_blur(image, sigma)

    image = jnp.unstack(as_shares(pixels), axis=-1)
    image = _perhaps(flip, image, recipe.flip_probability, draw(_Purpose.FLIP))
    image = _perhaps(jitter, image, recipe.jitter_probability, draw(_Purpose.JITTER))
    if len(image) == 3:
        image = _perhaps(grey, image, recipe.grey_probability, draw(_Purpose.GREY))
    if blur_probability is not None:
        image = blur(jax.lax.optimization_barrier(image))
    if solarise_probability is not None:
        image = _at_random(solarise, image, solarise_probability, draw(_Purpose.SOLARISE))
    return jnp.stack(image, axis=-1)


def _drawn(numbers: Any) -> Any:
    """The same, which XLA then does not draw anew for every pixel."""
    return jax.lax.optimization_barrier(numbers)


def _perhaps(
    operator: Callable[[Planes], Planes], image: Planes, probability: float, key: jax.Array
) -> Planes:
    """``operator(image)`` with that probability; 0 and 1 are settled while tracing."""
    if probability <= 0:
        return image
    if probability >= 1:
        return operator(image)
    return _at_random(operator, image, probability, key)


def _at_random(
    operator: Callable[[Planes], Planes],
    image: Planes,
    probability: float | jax.Array,
    key: jax.Array,
) -> Planes:
    """``operator(image)`` with a probability that may be traced."""
    chosen = _drawn(jax.random.bernoulli(key, probability))
    pairs = zip(operator(image), image, strict=True)
    return tuple(jnp.where(chosen, changed, plane) for changed, plane in pairs)
