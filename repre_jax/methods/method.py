"""What a method of pre-training is to the rest of the library."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from repre_jax.data.recipes import FAMILIES, ViewRecipe
from repre_jax.errors import UserError
from repre_jax.methods.picture import Painter
from repre_jax.models.pixels import encoder_input
from repre_jax.models.taps import apply_with_taps
from repre_jax.ranges import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE, SHARE, check_ranges
from repre_jax.schedules import Schedule

Outputs = Any  # what online heads return: [B, V, K] mostly


@dataclasses.dataclass(frozen=True)
class Frozen:
    """Parameters that an optimizer leaves alone: no update, no decay, no moments, no count.

    Attributes:
      prefix: path of the parameters, "encoder/patch_embed" say.
      until_step: first step that updates them; None for never.
    """

    prefix: str
    until_step: int | None = None

    def covers(self, path: str) -> bool:
        """Whether ``path`` is the prefix or lies under it."""
        return path == self.prefix or path.startswith(self.prefix + "/")


class Keys(NamedTuple):
    """Randomness of a forward pass.

    Attributes:
      examples: [B], one an image, a function of (seed, epoch, index): what is drawn with it depends
        neither on the image's place in the batch nor on devices.
      step: of what the rows of a batch share a stream for: drop path.
    """

    examples: jax.Array
    step: jax.Array


class Encoded(NamedTuple):
    """What a method makes of a batch with the online encoder.

    Attributes:
      inputs: what the heads take, a pytree whose leaves begin with axis B.
      feature: [B, D], one feature an image, for the meters.
      maps: [B, gh, gw, D] of each block asked for, of view 1 whole.
    """

    inputs: Any
    feature: jax.Array
    maps: list[jax.Array]


@dataclasses.dataclass(frozen=True)
class Target:
    """A target network: the moving average of the online encoder and of some heads.

    Attributes:
      heads: children of ``params["heads"]`` that it averages.
      momentum: of the average at the end of a step, a function of that step.
      views: global views that pass through it, neighbours in this order.
    """

    heads: tuple[str, ...]
    momentum: Schedule
    views: tuple[int, ...] = (0, 1)


@dataclasses.dataclass(frozen=True)
class Memory:
    """What a loss remembers from step to step, a pytree of arrays.

    Attributes:
      init: key -> memory at step 0.
      update: (memory, target [B, T, K]) -> memory of the next step.
    """

    init: Callable[[jax.Array], Any]
    update: Callable[[Any, jax.Array], Any]


@dataclasses.dataclass(frozen=True)
class EvaluationDefaults:
    """How what a method has learnt is evaluated where nobody asks for something else.

    Attributes:
      feature: of ``evaluation.frozen.FEATURES``, for k-NN, few labels and health.
      linear: of ``evaluation.linear.protocols.LINEAR_PROTOCOLS``. MoCo v3's serves the methods
        whose own is made for a ResNet-50.
      finetune: of ``evaluation.finetune.recipes.RECIPES``; None for the backbone's.
    """

    feature: str = "pooled"
    linear: str = "moco_v3"
    finetune: str | None = None


@dataclasses.dataclass(frozen=True)
class Method:
    """One paper's framework, as the parts that the train step asks for.

    Attributes:
      views: the augmentation recipe.
      encode: (encoder, params, views, keys, taps) -> ``Encoded``: the forward pass of the online
        encoder. ``params`` holds "encoder" and, for a method with some, "tokens"; ``views`` holds
        float32 images in [0, 1], "global" [B, V, H, W, C] and perhaps "local" [B, n, s, s, C],
        and the images' "index" int32 [B];
        ``keys`` are ``Keys``; ``taps`` are blocks whose maps of view 1 are wanted. An encoder with
        a convolutional stem needs ``WholeViews``, which is given its ``trunk`` and, in place of
        images, what came out of the stem.
      heads: module from ``Encoded.inputs`` to what ``loss`` takes; called with ``train=True`` for
        the online network, and through its method ``target``, [B, T, D] -> [B, T, K], for the
        target network.
      loss: (what the heads return, target [B, T, K], memory, step) -> (float32 [B], metrics). The
        target's outputs carry no gradient; without a target network they are None. The loss is
        never negative, or RePre's learned weights would run away (losses/weighting.py).
      loss_name: what the loss is called among the metrics, after "loss/".
      evaluated: "online" or "target", the weights that the paper evaluates.
      evaluation: defaults of evaluations.
      target: the target network, if any.
      memory: what the loss remembers, if anything.
      tokens: key -> what ``encode`` learns beside the encoder, such as a token that stands in for
        masked patches; kept in ``params["tokens"]``.
      sees_view_1: whether ``encode`` has maps of view 1 whole to give, which RePre reconstructs.
      separable: whether the loss of an image depends on that image alone: then the heads, too, see
        a micro-batch at a time.
      collapses: whether the features can fall onto one point or line, and a run should say so.
      multi_crop: whether the loss knows what to do with local crops.
      frozen: parameters held still.
      constant_rate: prefixes of the parameters whose learning rate stays at the peak after warm-up.
      painter: how to show what it reconstructs, if anything.
      remarks: number of images seen by the end of the run, repeated ones each time -> sentences on
        what the user may not have meant, such as a schedule whose end such a run never reaches.
      check_images: raises UserError when there cannot be so many images in the training set.
    """

    views: ViewRecipe
    encode: Callable[..., Encoded]
    heads: nn.Module
    loss: Callable[
        [Outputs, jax.Array | None, Any, jax.Array], tuple[jax.Array, dict[str, jax.Array]]
    ]
    loss_name: str
    evaluated: str
    evaluation: EvaluationDefaults = EvaluationDefaults()
    target: Target | None = None
    memory: Memory | None = None
    tokens: Callable[[jax.Array], Any] | None = None
    sees_view_1: bool = True
    separable: bool = False
    collapses: bool = True
    multi_crop: bool = False
    frozen: tuple[Frozen, ...] = ()
    constant_rate: tuple[str, ...] = ()
    painter: Painter | None = None
    remarks: Callable[[int], list[str]] = lambda seen: []
    check_images: Callable[[int], None] = lambda count: None


@dataclasses.dataclass(frozen=True)
class WholeViews:
    """``Method.encode`` of the contrastive frameworks: the encoder on all of every view.

    Heads get pooled features [B, V, D], global views first. Views are folded into rows of their
    example, so that a batch split over devices stays split; one pass a resolution.

    Attributes:
      online: global views that pass through the online network, neighbours in this order; local
        crops follow.
    """

    online: tuple[int, ...]

    def __call__(self, encoder, params, views, keys, taps) -> Encoded:
        views = views | {"global": views["global"][:, self.online[0] : self.online[-1] + 1]}
        pooled, maps = [], []
        for name in ("global", "local"):
            if name not in views:
                continue
            batch, count = views[name].shape[:2]
            encoded, group_maps = apply_with_taps(
                encoder,
                {"params": params["encoder"]},
                encoder_input(encoder, views[name].reshape(-1, *views[name].shape[2:])),
                taps if name == "global" else (),
                train=True,
                rngs={"drop_path": jax.random.fold_in(keys.step, len(pooled))},
            )
            pooled.append(encoded.pooled.reshape(batch, count, -1))
            maps += [m.reshape(batch, count, *m.shape[1:])[:, 0] for m in group_maps]
        features = jnp.concatenate(pooled, axis=1)
        return Encoded(features, features[:, 0], maps)


def whole_views(*online: int) -> WholeViews:
    """``WholeViews`` of these views."""
    return WholeViews(online)


FROZEN_PATCH_EMBEDDING = Frozen("encoder/patch_embed")


def check_heads(config: ConfigDict, *allowed: str) -> str:
    """``config.heads``, whose values are ``allowed``; UserError when it is none of them."""
    if config.heads not in allowed:
        raise UserError(f"method.heads={config.heads!r} must be one of {', '.join(allowed)}.")
    return config.heads


_VIEW_RANGES = {
    "views.local_crops": NOT_NEGATIVE,
    "views.local_size": AT_LEAST_ONE,
    "views.jitter": NOT_NEGATIVE,
    "views.flip_probability": SHARE,
    "views.jitter_probability": SHARE,
    "views.grey_probability": SHARE,
    "views.blur_probability": SHARE,
    "views.blur_sigma": POSITIVE,
    "views.solarise_probability": SHARE,
    "views.local_blur_probability": SHARE,
}


def with_overrides(recipe: ViewRecipe, overrides: ConfigDict) -> ViewRecipe:
    """The paper's recipe with those fields replaced that ``config.views`` sets.

    Raises:
      UserError: a value that no view can have.
    """
    # A recorded config.json holds lists where the recipe holds tuples.
    given = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in overrides.items()
        if value is not None
    }
    for name, value in given.items():
        usual = getattr(recipe, name)
        if isinstance(usual, tuple):
            numbers = [x for x in value if isinstance(x, (int, float))]
            if not len(numbers) == len(value) == len(usual):
                told = f"must have {len(usual)} numbers, like {usual}."
                raise UserError(f"views.{name}={value} {told}")
    recipe = dataclasses.replace(recipe, **given)
    for name in ("crop_scale", "local_crop_scale"):
        low, high = getattr(recipe, name)
        if not 0 < low <= high <= 1:
            raise UserError(f"views.{name}=({low}, {high}) must satisfy 0 < low <= high <= 1.")
    check_ranges({"views": given}, _VIEW_RANGES)
    low, high = recipe.blur_sigma
    if not 0 < low <= high:
        raise UserError(f"views.blur_sigma=({low}, {high}) must satisfy 0 < low <= high.")
    if recipe.interpolation not in ("bilinear", "bicubic"):
        raise UserError(
            f"views.interpolation={recipe.interpolation!r} must be 'bilinear' or 'bicubic'."
        )
    if recipe.photometric not in FAMILIES:
        raise UserError(
            f"views.photometric={recipe.photometric!r} must be among {', '.join(FAMILIES)}."
        )
    return recipe
