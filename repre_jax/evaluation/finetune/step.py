"""Fine-tuning as one pure function (state, batch) -> (state, metrics), and its static parts."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from repre_jax.data.device.augment import augment_views
from repre_jax.data.device.erasing import erase
from repre_jax.data.device.mixing import mix
from repre_jax.evaluation.finetune.layer_decay import layer_scales, scale_by_layer
from repre_jax.evaluation.finetune.recipes import FinetuneRecipe, mixing_of, views_of
from repre_jax.image_size import ImageSize
from repre_jax.models.layers import layer_norm
from repre_jax.models.pixels import encoder_input
from repre_jax.models.positions import resize_learned_positions, sincos_2d
from repre_jax.models.taps import apply_with_taps
from repre_jax.random_streams import Stream, example_keys, step_key
from repre_jax.schedules import LEARNING_RATE_SCHEDULES, Clock, Schedule, WarmUp
from repre_jax.sharding import jitted
from repre_jax.training.finite import taken_where_finite
from repre_jax.training.optimizers import build_optimizer


class FinetuneState(struct.PyTreeNode):
    """Everything that changes; parameters and moments are float32.

    Attributes:
      step: int32, steps taken, skipped ones included.
      params: {"encoder", "head"} and, with pooling "tokens", {"norm"}.
      average: moving average of ``params``; {} without one.
      opt_state: of the optimizer.
      nonfinite_in_a_row: int32, steps skipped directly before now because loss or gradient was not
        finite.
    """

    step: jax.Array
    params: Any
    average: Any
    opt_state: Any
    nonfinite_in_a_row: jax.Array


class Head(nn.Module):
    """Perhaps a norm, then the linear classifier, in float32."""

    classes: int
    deviation: float
    norm_epsilon: float | None  # None for no norm

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """[B, D] -> logits [B, C]."""
        features = features.astype(jnp.float32)
        if self.norm_epsilon is not None:
            features = layer_norm(self.norm_epsilon, jnp.float32, "norm")(features)
        kernel_init = nn.initializers.normal(self.deviation)
        return nn.Dense(self.classes, kernel_init=kernel_init, name="head")(features)


@dataclasses.dataclass(frozen=True)
class Finetuner:
    """What the step is made of.

    Attributes:
      encoder: with the drop path and the grid of positions of the fine-tuning.
      head: on its feature.
      recipe: the numbers.
      optimizer: optax transformation that takes the keyword ``step``.
      learning_rate: of the last layer, the schedule in ``optimizer``.
      seed: of every draw.
    """

    encoder: nn.Module
    head: Head
    recipe: FinetuneRecipe
    optimizer: optax.GradientTransformationExtraArgs
    learning_rate: Schedule
    seed: int

    def logits(self, params: Any, images: jax.Array, **apply_options: Any) -> jax.Array:
        """float32 [B, C] of images [B, H, W, channels] as the encoder takes them."""
        last = (self.encoder.depth - 1,) if self.recipe.pooling == "tokens" else ()
        encoded, maps = apply_with_taps(
            self.encoder, {"params": params["encoder"]}, images, last, **apply_options
        )
        feature = maps[0].astype(jnp.float32).mean(axis=(1, 2)) if maps else encoded.pooled
        head = {name: part for name, part in params.items() if name != "encoder"}
        return self.head.apply({"params": head}, feature)

    def encoder_input(self, pixels: jax.Array) -> jax.Array:
        """Pixels [..., C] in [0, 1] as the encoder takes them."""
        return encoder_input(self.encoder, pixels)


def finetuned_encoder(
    encoder: nn.Module, params: Any, *, image_size: ImageSize, drop_path: float, remat: str
) -> tuple[nn.Module, Any]:
    """A pre-trained encoder and its parameters, made ready for training at an image size.

    The absolute positions of a ViT become parameters of the new grid whatever they were, as in MAE
    and DeiT, where fixed ones are fine-tuned, too. Relative ones fit every grid, and Swin keeps the
    windows that it was made for, which any image size runs through.
    """
    if getattr(encoder, "position", "relative") == "relative":
        return encoder.clone(drop_path=drop_path, remat=remat), params
    finetuned = encoder.clone(
        drop_path=drop_path, remat=remat, image_size=image_size, position="learned"
    )
    if "position_embedding" in params:
        positions = params["position_embedding"]
        positions = resize_learned_positions(positions, encoder.grid, finetuned.grid)
    else:
        columns_first = encoder.position == "sincos_columns_first"
        positions = sincos_2d(finetuned.grid, encoder.width, columns_first=columns_first)
    return finetuned, {**params, "position_embedding": positions}


def build_finetuner(
    encoder: nn.Module,
    recipe: FinetuneRecipe,
    params: Any,
    *,
    classes: int,
    clock: Clock,
    seed: int,
) -> Finetuner:
    """The static parts for a run of this length; see ``Finetuner``.

    Args:
      encoder: of ``finetuned_encoder``.
      recipe: the numbers.
      params: of that encoder; only their shapes matter.
      classes: C.
      clock: of the run.
      seed: of every draw.
    """
    scale = recipe.batch_size / 256
    end_scale = scale if recipe.scale_ends else 1.0
    learning_rate = LEARNING_RATE_SCHEDULES[recipe.schedule](
        recipe.learning_rate * scale,
        clock,
        WarmUp(
            steps=clock.steps(recipe.warmup_epochs),
            start=recipe.start_learning_rate * end_scale,
            end=recipe.end_learning_rate * end_scale,
        ),
    )
    epsilon = encoder.norm_epsilon if recipe.pooling == "tokens" else None
    head = Head(classes, recipe.head_deviation, epsilon)
    shapes = jax.eval_shape(lambda: _all_params(head, encoder, params, seed))
    optimizer = build_optimizer(
        "adamw",
        shapes,
        learning_rate=learning_rate,
        weight_decay=lambda step: recipe.weight_decay,
        decay="kernels",
        clip_global=recipe.clip_global,
    )
    scales = layer_scales(shapes, encoder, recipe.layer_decay)
    return Finetuner(
        encoder=encoder,
        head=head,
        recipe=recipe,
        optimizer=optax.chain(optimizer, scale_by_layer(scales)),
        learning_rate=learning_rate,
        seed=seed,
    )


def initial_state(finetuner: Finetuner, encoder_params: Any) -> FinetuneState:
    """The state at step 0: a pre-trained encoder under a fresh head."""
    params = _all_params(finetuner.head, finetuner.encoder, encoder_params, finetuner.seed)
    zero = jnp.zeros((), jnp.int32)
    return FinetuneState(
        step=zero,
        params=params,
        average=jax.tree.map(jnp.copy, params) if finetuner.recipe.average_decay else {},
        opt_state=finetuner.optimizer.init(params),
        nonfinite_in_a_row=zero,
    )


def _all_params(head: Head, encoder: nn.Module, encoder_params: Any, seed: int) -> Any:
    key = jax.random.fold_in(jax.random.key(seed), Stream.HEAD)
    fresh = head.init(key, jnp.zeros((1, encoder.width)))["params"]
    return {"encoder": jax.tree.map(jnp.asarray, encoder_params), **fresh}


def finetune_step(
    finetuner: Finetuner, state: FinetuneState, batch: dict[str, jax.Array]
) -> tuple[FinetuneState, dict[str, jax.Array]]:
    """One step of fine-tuning.

    Args:
      finetuner: static parts; bind it with ``functools.partial`` before ``jax.jit``.
      state: donated by the caller.
      batch: of ``data.pipeline``: "global" uint8 or uint16 [B, 1, H, W, C], "label", "index" and
        "epoch" int32 [B].

    Returns:
      (next state, metrics: scalars).
    """
    images, targets = augmented(finetuner, batch, state.step)
    return update(finetuner, state, images, targets)


def jitted_finetune_step(finetuner: Finetuner, mesh: Mesh) -> jax.stages.Wrapped:
    """``finetune_step``, (state, batch) -> (state, metrics); it takes over the state."""
    return jitted(functools.partial(finetune_step, finetuner), mesh, donate_argnums=0)


def augmented(
    finetuner: Finetuner, batch: dict[str, jax.Array], step: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Flipped, erased and mixed images [B, H, W, channels], and their soft targets [B, C].

    All draws but the mixture, which is the step's, are functions of (seed, epoch, index).
    """
    recipe, seed = finetuner.recipe, finetuner.seed
    pixels = augment_views(batch, views_of(recipe), seed)["global"][:, 0]
    images = finetuner.encoder_input(pixels)
    if recipe.erasing_probability:
        keys = example_keys(seed, Stream.ERASING, batch["epoch"], batch["index"])
        images = jax.vmap(lambda key, x: erase(key, x, recipe.erasing_probability))(keys, images)
    key = step_key(seed, Stream.MIXING, step)
    return mix(key, images, batch["label"], mixing_of(recipe), classes=finetuner.head.classes)


def update(
    finetuner: Finetuner, state: FinetuneState, images: jax.Array, targets: jax.Array
) -> tuple[FinetuneState, dict[str, jax.Array]]:
    """The gradient step on images as the encoder takes them and soft targets [B, C].

    A step whose loss or gradient is not finite changes nothing but the clock and the counter.
    """
    drop_path = step_key(finetuner.seed, Stream.FINETUNING_DROP_PATH, state.step)

    def objective(params):
        logits = finetuner.logits(params, images, train=True, rngs={"drop_path": drop_path})
        return jnp.mean(optax.softmax_cross_entropy(logits, targets))

    loss, gradients = jax.value_and_grad(objective)(state.params)
    grad_norm = optax.tree.norm(gradients)
    updates, opt_state = finetuner.optimizer.update(
        gradients, state.opt_state, state.params, step=state.step
    )
    params = optax.apply_updates(state.params, updates)
    average, decay = state.average, finetuner.recipe.average_decay
    if decay:
        average = optax.incremental_update(params, average, 1 - decay)
    taken = state.replace(params=params, average=average, opt_state=opt_state)
    new_state = taken_where_finite(taken, state, loss, grad_norm)
    metrics = {
        "loss": loss,
        "grad_norm": grad_norm,
        "learning_rate": finetuner.learning_rate(state.step),
        "nonfinite_in_a_row": new_state.nonfinite_in_a_row,
    }
    return new_state, metrics
