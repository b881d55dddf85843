"""Training a detector as one pure function (state, batch) -> (state, metrics), and its parts."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from repre_jax.data.pixel_format import as_shares
from repre_jax.errors import UserError
from repre_jax.evaluation.detection.recipes import DetectionRecipe, form_of
from repre_jax.evaluation.finetune.layer_decay import layer_scales, scale_by_layer
from repre_jax.methods.method import Frozen
from repre_jax.models.detection.detector import Detections, Detector, detect
from repre_jax.models.detection.heads import BoxHead, MaskHead, ProposalHead
from repre_jax.models.detection.losses import Objects, detection_losses
from repre_jax.models.detection.necks import FeaturePyramid, SimplePyramid
from repre_jax.models.detection.vitdet import detection_vit
from repre_jax.models.pixels import encoder_input
from repre_jax.models.positions import resize_relative_table
from repre_jax.models.swin import Swin
from repre_jax.random_streams import Stream, example_keys, step_key, stream_key
from repre_jax.rematerialisation import level_of
from repre_jax.schedules import Clock, Schedule, warmup_then_drops
from repre_jax.training.finite import taken_where_finite
from repre_jax.training.optimizers import build_optimizer

_WARMUP_START, _DROP = 0.001, 0.1  # of the learning rate, in both recipes


class DetectionState(struct.PyTreeNode):
    """Everything that changes; parameters and moments are float32.

    Attributes:
      step: int32, steps taken, skipped ones included.
      params: {"encoder", "neck", "proposal_head", "box_head", "mask_head"}.
      opt_state: of the optimizer.
      nonfinite_in_a_row: int32, steps skipped directly before now because loss or gradient was not
        finite.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    nonfinite_in_a_row: jax.Array


@dataclasses.dataclass(frozen=True)
class Trainer:
    """What the step is made of.

    Attributes:
      detector: of ``build_detector``.
      recipe: the numbers.
      side: of the square images in pixels, or the long side of ``recipe.buckets``.
      optimizer: optax transformation that takes the keyword ``step``.
      learning_rate: of the last layer, the schedule in ``optimizer``.
      seed: of every draw.
    """

    detector: Detector
    recipe: DetectionRecipe
    side: int
    optimizer: optax.GradientTransformationExtraArgs
    learning_rate: Schedule
    seed: int

    def images(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Images [B, H, W, C] as the encoder takes them, 0 beyond what is seen."""
        images = encoder_input(self.detector.encoder, as_shares(batch["image"]))
        rows, columns = (
            jnp.arange(images.shape[1 + k]) < batch["size"][:, k : k + 1] for k in (0, 1)
        )
        return jnp.where((rows[:, :, None] & columns[:, None])[..., None], images, 0)

    def detections(self, params: Any, batch: Mapping[str, jax.Array]) -> Detections:
        """What is found in a batch of "image" and "size"."""
        return detect(self.detector, params, self.images(batch), batch["size"])


def build_detector(
    encoder: nn.Module, params: Any, recipe: DetectionRecipe, *, side: int, classes: int, mesh: Mesh
) -> tuple[Detector, Any]:
    """A detector on a pre-trained encoder, and the encoder's parameters as it takes them.

    Args:
      encoder: in its ``frozen`` form.
      params: its parameters.
      recipe: the numbers.
      side: of the square images in pixels.
      classes: C.
      mesh: devices.

    Raises:
      UserError: a patch that the pyramid cannot be built on.
    """
    dtype, norms = encoder.dtype, recipe.head_norms
    if isinstance(encoder, Swin):
        encoder, params = _detection_swin(encoder, params, recipe, side)
        blocks, finest = encoder.taps, encoder.patch_size
        neck = FeaturePyramid(recipe.pyramid_width, encoder.norm_epsilon, dtype)
    else:
        if encoder.patch_size % 4:
            raise UserError(
                f"The pyramid's finest map has a quarter of the patch as its stride, and "
                f"{encoder.patch_size} pixels have none: take an encoder whose patch 4 divides."
            )
        remat = level_of(recipe.remat, "recipe.remat")
        encoder, params = detection_vit(
            encoder, params, window=recipe.window, drop_path=recipe.drop_path, remat=remat
        )
        blocks, finest = encoder.pyramid_blocks, encoder.patch_size // 4
        neck = SimplePyramid(recipe.pyramid_width, dtype)
    detector = Detector(
        encoder=encoder,
        blocks=blocks,
        neck=neck,
        proposal_head=ProposalHead(recipe.proposal_convolutions, dtype),
        box_head=BoxHead(
            classes,
            recipe.box_convolutions,
            recipe.box_layers,
            recipe.box_units,
            norms,
            dtype,
        ),
        mask_head=MaskHead(classes, recipe.mask_convolutions, norms, norms, dtype),
        strides=tuple(finest * 2**k for k in range(5)),
        form=form_of(recipe, classes),
        mesh=mesh,
    )
    return detector, params


def _detection_swin(
    encoder: Swin, params: Any, recipe: DetectionRecipe, side: int
) -> tuple[Swin, Any]:
    """A Swin as a detector's backbone, and its parameters, biases of smaller windows resized.

    The backbone has one window for all stages and shifts it in all of them, however small their
    maps (Swin-Transformer-Object-Detection, backbones/swin_transformer.py).
    """

    def resized(path, leaf):
        if path[-1].key != "relative_position_bias":
            return leaf
        return resize_relative_table(leaf, 2 * encoder.window - 1)

    backbone = encoder.clone(
        image_size=max(side, 2 * 32 * encoder.window),
        drop_path=recipe.drop_path,
        remat=level_of(recipe.remat, "recipe.remat"),
    )
    return backbone, jax.tree_util.tree_map_with_path(resized, params)


def build_trainer(
    detector: Detector,
    encoder_params: Any,
    recipe: DetectionRecipe,
    *,
    side: int,
    clock: Clock,
    seed: int,
) -> Trainer:
    """The static parts for a run of this length; see ``Trainer``.

    Args:
      detector: of ``build_detector``.
      encoder_params: of that; only their shapes matter.
      recipe: the numbers.
      side: of the square images in pixels.
      clock: of the run.
      seed: of every draw.
    """
    learning_rate = warmup_then_drops(
        recipe.learning_rate,
        warmup_steps=recipe.warmup_steps,
        start_share=_WARMUP_START,
        drops=tuple(round(share * clock.total_steps) for share in recipe.drops),
        factor=_DROP,
    )
    init = functools.partial(_all_params, detector, side=side, seed=seed)
    shapes = jax.eval_shape(init, encoder_params)
    optimizer = build_optimizer(
        "adamw",
        shapes,
        learning_rate=learning_rate,
        weight_decay=lambda step: recipe.weight_decay,
        decay="all_but_norms",
        frozen=() if recipe.train_encoder else (Frozen("encoder"),),
    )
    scales = layer_scales(shapes, detector.encoder, recipe.layer_decay)
    optimizer = optax.chain(optimizer, scale_by_layer(scales))
    return Trainer(detector, recipe, side, optimizer, learning_rate, seed)


def initial_state(trainer: Trainer, encoder_params: Any) -> DetectionState:
    """The state at step 0: a pre-trained encoder under fresh heads."""
    params = _all_params(trainer.detector, encoder_params, side=trainer.side, seed=trainer.seed)
    zero = jnp.zeros((), jnp.int32)
    return DetectionState(zero, params, trainer.optimizer.init(params), zero)


def _all_params(detector: Detector, encoder_params: Any, *, side: int, seed: int) -> Any:
    """Those given, fresh ones for what they lack, and the heads'."""
    of_encoder, of_heads = jax.random.split(stream_key(seed, Stream.HEAD))
    encoder = detector.encoder
    image = jnp.zeros((1, side, side, encoder.channels))
    fresh = encoder.init(of_encoder, image)["params"]
    encoder_params = _over(fresh, encoder_params)
    maps = jax.eval_shape(lambda p: detector.maps({"encoder": p}, image), encoder_params)
    return {"encoder": encoder_params, **detector.init_heads(of_heads, maps)}


def _over(fresh: Any, given: Any) -> Any:
    """The tree of ``fresh`` with the leaves of ``given``, which may lack some."""
    if not isinstance(fresh, Mapping):
        return jnp.asarray(given)
    return {
        name: _over(part, given[name]) if name in given else part for name, part in fresh.items()
    }


def detection_step(
    trainer: Trainer, state: DetectionState, batch: dict[str, jax.Array]
) -> tuple[DetectionState, dict[str, jax.Array]]:
    """One step. A step whose loss or gradient is not finite changes the clock and the counter only.

    Args:
      trainer: static parts; bind it with ``functools.partial`` before ``jax.jit``.
      state: donated by the caller.
      batch: of ``data.detection.batches.detection_batches``.

    Returns:
      (next state, metrics: scalars).
    """
    detector, recipe = trainer.detector, trainer.recipe
    images = trainer.images(batch)
    objects = Objects(*(batch[key] for key in Objects._fields))
    keys = example_keys(trainer.seed, Stream.DETECTION, batch["epoch"], batch["draw"])
    drop_path = step_key(trainer.seed, Stream.FINETUNING_DROP_PATH, state.step)

    def objective(params):
        # What is frozen is evaluated as it was, without drop path.
        train = recipe.train_encoder
        maps = detector.maps(params, images, train=train, rngs={"drop_path": drop_path})
        maps = maps if train else jax.lax.stop_gradient(maps)
        losses = detection_losses(detector, params, maps, objects, keys)
        return sum(losses.values()), losses

    (loss, losses), gradients = jax.value_and_grad(objective, has_aux=True)(state.params)
    grad_norm = optax.tree.norm(gradients)
    updates, opt_state = trainer.optimizer.update(
        gradients, state.opt_state, state.params, step=state.step
    )
    taken = state.replace(params=optax.apply_updates(state.params, updates), opt_state=opt_state)
    new_state = taken_where_finite(taken, state, loss, grad_norm)
    metrics = {
        "loss": loss,
        **{f"loss/{name}": value for name, value in losses.items()},
        "grad_norm": grad_norm,
        "learning_rate": trainer.learning_rate(state.step),
        "objects": jnp.mean(jnp.sum(objects.valid, axis=1)),
        "objects_left_out": jnp.sum(batch["left_out"]),
        "nonfinite_in_a_row": new_state.nonfinite_in_a_row,
    }
    return new_state, metrics
