"""SETR's training as one pure function (state, batch) -> (state, metrics), and its static parts.

"adamw" is SegFormer's optimizer with its rates and decay, on SETR's schedule: of SegFormer's own it
has neither the power of 1 nor the warm-up.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from repre_jax.data.segmentation.label_maps import VOID
from repre_jax.evaluation.segmentation.setr.crops import augmented
from repre_jax.models.pixels import encoder_input
from repre_jax.models.setr import SETRHead, learns_as_the_encoder
from repre_jax.models.taps import apply_with_taps
from repre_jax.random_streams import Stream, step_key
from repre_jax.schedules import Schedule
from repre_jax.training.finite import taken_where_finite
from repre_jax.training.optimizers import decayed_parameters

MOMENTUM = 0.9
WEIGHT_DECAY = 0.01
# SETR's own; and SegFormer's, for encoders that have been pre-trained with Adam or not at all
# (NVlabs/SegFormer, local_configs/segformer, which decay all but norms and positions, and whose
# schedule is not taken: power 1 after a linear warm-up of 1,500 steps from 1e-6 of the rate).
OPTIMIZERS = {
    "sgd": optax.trace(MOMENTUM),
    "adamw": optax.chain(
        optax.scale_by_adam(),
        optax.add_decayed_weights(
            WEIGHT_DECAY, functools.partial(decayed_parameters, "all_but_norms")
        ),
    ),
}
POWER = 0.9  # of the poly schedule (configs/_base_/schedules/schedule_40k.py)
NORMALISATIONS = ("all", "valid")


class SETRState(struct.PyTreeNode):
    """Everything that changes; float32.

    Attributes:
      step: int32, steps taken, skipped ones included.
      params: {"encoder", "head"}.
      batch_stats: of the head.
      opt_state: of the optimizer, for each part that is trained.
      nonfinite_in_a_row: int32.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    nonfinite_in_a_row: jax.Array


@dataclasses.dataclass(frozen=True)
class Segmenter:
    """What the step is made of.

    Attributes:
      encoder: with the drop path and the grid of positions of the training.
      head: on its maps.
      crop: (H, W) of all images that the encoder sees.
      optimizer: of ``OPTIMIZERS``.
      learning_rate: of the encoder and of MLA's part of it; the heads' is ``head_rate`` times it
        at the start.
      head_rate: see there.
      end_learning_rate: of both.
      total_steps: of the run.
      auxiliary_weight: of each auxiliary loss.
      loss_over: of ``NORMALISATIONS``: whether void pixels count in the loss's mean.
      frozen: the encoder stays as it is.
      photometric: whether colours are distorted.
      seed: of every draw.
    """

    encoder: nn.Module
    head: SETRHead
    crop: tuple[int, int]
    optimizer: str
    learning_rate: float
    head_rate: float
    end_learning_rate: float
    total_steps: int
    auxiliary_weight: float
    loss_over: str
    frozen: bool
    photometric: bool
    seed: int

    def init(self, encoder_params: Any) -> SETRState:
        """The state at step 0: a pre-trained encoder under a fresh head; meant to be jitted."""
        maps = [
            jnp.zeros(x.shape, x.dtype)
            for x in jax.eval_shape(self._maps, encoder_params, jnp.zeros((1, *self.crop, 3)))
        ]
        key = jax.random.fold_in(jax.random.key(self.seed), Stream.HEAD)
        fresh = self.head.init(key, maps, self.crop)
        params = {"encoder": jax.tree.map(jnp.asarray, encoder_params), "head": fresh["params"]}
        trained = {name: x for name, x in params.items() if name == "head" or not self.frozen}
        zero = jnp.zeros((), jnp.int32)
        opt_state = OPTIMIZERS[self.optimizer].init(trained)
        return SETRState(zero, params, fresh["batch_stats"], opt_state, zero)

    def rates(self, step: jax.Array) -> dict[str, jax.Array]:
        """Learning rate of each part: poly, per step, with a floor that both share."""
        return {
            "encoder": poly(self.learning_rate, self.end_learning_rate, self.total_steps)(step),
            "head": poly(
                self.head_rate * self.learning_rate, self.end_learning_rate, self.total_steps
            )(step),
        }

    def logits(self, params: Any, batch_stats: Any, pixels: jax.Array, inside: jax.Array) -> Any:
        """Logits float32 [B, H, W, C] of pixels in [0, 1] [B, H, W, 3], without training.

        Args:
          params, batch_stats: of the state.
          pixels: of crops.
          inside: bool [B, H, W], False beyond the image.
        """
        maps = self._maps(params["encoder"], self._inputs(pixels, inside))
        variables = {"params": params["head"], "batch_stats": batch_stats}
        return self.head.apply(variables, maps, self.crop)[0]

    def losses(
        self, params: Any, batch_stats: Any, pixels, labels, inside, key: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        """(loss, (loss of the main head alone, new batch statistics)) of a batch of crops."""
        options = {} if self.frozen else {"train": True, "rngs": {"drop_path": key}}
        maps = self._maps(params["encoder"], self._inputs(pixels, inside), **options)
        variables = {"params": params["head"], "batch_stats": batch_stats}
        (logits, auxiliary), changed = self.head.apply(
            variables, maps, self.crop, train=True, mutable=["batch_stats"]
        )
        main = pixel_cross_entropy(logits, labels, self.loss_over)
        others = [pixel_cross_entropy(x, labels, self.loss_over) for x in auxiliary]
        return main + self.auxiliary_weight * sum(others), (main, changed["batch_stats"])

    def _maps(self, params: Any, inputs: jax.Array, **options: Any) -> list[jax.Array]:
        return apply_with_taps(self.encoder, {"params": params}, inputs, self.head.taps, **options)[
            1
        ]

    def _inputs(self, pixels: jax.Array, inside: jax.Array) -> jax.Array:
        """As the encoder takes them; zeros beyond the image, behind the normalisation."""
        return jnp.where(inside[..., None], encoder_input(self.encoder, pixels), 0)


def train_step(
    segmenter: Segmenter, state: SETRState, batch: dict[str, jax.Array]
) -> tuple[SETRState, dict[str, jax.Array]]:
    """One step; one that is not finite changes nothing but clock and counter.

    Args:
      segmenter: static parts; bind it with ``functools.partial`` before ``jax.jit``.
      state: donated by the caller.
      batch: of ``crops.crop_batches``.
    """
    crops = augmented(batch, state.step, segmenter.seed, segmenter.photometric)
    key = step_key(segmenter.seed, Stream.FINETUNING_DROP_PATH, state.step)
    kept = {} if not segmenter.frozen else {"encoder": state.params["encoder"]}
    trained = {name: x for name, x in state.params.items() if name not in kept}

    def objective(trained):
        return segmenter.losses({**kept, **trained}, state.batch_stats, *crops, key)

    (loss, (main, batch_stats)), gradients = jax.value_and_grad(objective, has_aux=True)(trained)
    grad_norm = optax.tree.norm(gradients)
    rates = segmenter.rates(state.step)
    directions, opt_state = OPTIMIZERS[segmenter.optimizer].update(
        gradients, state.opt_state, trained
    )

    def moved(path, parameter, direction):
        part, module = path[0].key, path[1].key
        return parameter - rates["encoder" if learns_as_the_encoder(module) else part] * direction

    trained = jax.tree_util.tree_map_with_path(moved, trained, directions)
    taken = state.replace(params={**kept, **trained}, batch_stats=batch_stats, opt_state=opt_state)
    new_state = taken_where_finite(taken, state, loss, grad_norm)
    metrics = {
        "loss": loss,
        "loss/main": main,
        "grad_norm": grad_norm,
        "learning_rate": rates["encoder"],
        "nonfinite_in_a_row": new_state.nonfinite_in_a_row,
    }
    return new_state, metrics


def pixel_cross_entropy(logits: jax.Array, labels: jax.Array, over: str) -> jax.Array:
    """Mean cross-entropy of logits [B, H, W, C]; void pixels add nothing.

    Args:
      logits: float32.
      labels: [B, H, W], ``VOID`` for pixels without a class.
      over: "all": void pixels count in the mean, as in mmsegmentation of SETR's time
        (mmseg/models/losses/cross_entropy_loss.py); "valid": they do not.
    """
    known = labels != VOID
    classes = jnp.where(known, labels, 0).astype(jnp.int32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, classes)
    count = known.sum() if over == "valid" else known.size
    return jnp.sum(losses * known) / jnp.maximum(count, 1)


def poly(start: float, end: float, total_steps: int) -> Schedule:
    """(start - end) (1 - t / T)^0.9 + end, mmcv's PolyLrUpdaterHook."""

    def schedule(step):
        # Steps are whole numbers: near the end, a share of them would have lost its digits.
        left = jnp.asarray(jnp.maximum(total_steps - step, 0), jnp.float32) / total_steps
        return (start - end) * left**POWER + end

    return schedule
