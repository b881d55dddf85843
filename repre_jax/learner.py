"""The unchanging parts of a run, and how a config becomes them."""

import dataclasses

import flax.linen as nn
import jax
import optax
from ml_collections import ConfigDict

from repre_jax import optimizers
from repre_jax.config_resolution import Resolution
from repre_jax.data.recipes import ViewRecipe
from repre_jax.errors import UserError
from repre_jax.methods import METHODS, repre
from repre_jax.methods.method import Method
from repre_jax.methods.repre import RePre
from repre_jax.models import BACKBONES
from repre_jax.schedules import LEARNING_RATE_SCHEDULES, Schedule, cosine
from repre_jax.train_state import TrainState, create_train_state, init_params


@dataclasses.dataclass(frozen=True)
class Learner:
    """What the train step is made of.

    Attributes:
      encoder: the vision transformer.
      method: the contrastive framework.
      repre: the reconstruction branch; None for the baseline.
      optimizer: optax transformation that takes the keyword ``step``.
      learning_rate: the schedule in ``optimizer``, for the logs.
      image_size: side of a global view in pixels.
      seed: of every random draw.
      accumulate: micro-batches that the encoder sees one after the other. The gradient is that of
        the whole batch all the same, in-batch negatives and BatchNorm included.
    """

    encoder: nn.Module
    method: Method
    repre: RePre | None
    optimizer: optax.GradientTransformationExtraArgs
    learning_rate: Schedule
    image_size: int
    seed: int
    accumulate: int = 1

    def init(self) -> TrainState:
        """The state at step 0, a function of the seed alone; meant to be jitted."""
        return create_train_state(
            self.encoder,
            self.method,
            self.repre,
            self.optimizer,
            image_size=self.image_size,
            seed=self.seed,
        )


def build_learner(config: ConfigDict, resolution: Resolution) -> Learner:
    """The parts that a config names, for a run of this length.

    Raises:
      UserError: parts that do not fit together.
    """
    dtype = resolution.compute_dtype
    encoder = BACKBONES[config.model.name](config.model, dtype)
    method = METHODS[config.method.name].build(config.method, config.views, resolution.clock, dtype)
    _check_local_crops(method.views, config.model.patch_size)
    branch = repre.build(config.repre, config.model, encoder.depth, dtype)
    learning_rate = LEARNING_RATE_SCHEDULES[config.optimizer.schedule](
        resolution.learning_rate,
        warmup_steps=resolution.warmup_steps,
        total_steps=resolution.clock.total_steps,
        end=config.optimizer.end_learning_rate,
    )

    def shapes():
        return init_params(
            encoder, method, branch, image_size=config.model.image_size, seed=config.seed
        )[0]

    optimizer = optimizers.adamw(
        jax.eval_shape(shapes),
        learning_rate=learning_rate,
        weight_decay=cosine(
            config.optimizer.weight_decay,
            config.optimizer.end_weight_decay,
            total_steps=resolution.clock.total_steps,
        ),
        decay=config.optimizer.decay,
        clip_per_tensor=config.optimizer.clip_per_tensor,
        frozen=method.frozen,
    )
    return Learner(
        encoder=encoder,
        method=method,
        repre=branch,
        optimizer=optimizer,
        learning_rate=learning_rate,
        image_size=config.model.image_size,
        seed=config.seed,
        accumulate=config.train.accumulate,
    )


def _check_local_crops(views: ViewRecipe, patch: int) -> None:
    size = views.local_size
    if views.local_crops and (size < patch or size % patch):
        raise UserError(f"views.local_size={size} is not a multiple of model.patch_size={patch}.")
