"""The unchanging parts of a run, and how a config becomes them."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from repre_jax.data.device.augment import encoder_input
from repre_jax.errors import UserError
from repre_jax.methods import METHODS, repre
from repre_jax.methods.method import Method
from repre_jax.methods.repre import RePre
from repre_jax.models import BACKBONES
from repre_jax.schedules import LEARNING_RATE_SCHEDULES, Schedule, cosine
from repre_jax.training import optimizers
from repre_jax.training.resolution import Resolution
from repre_jax.training.train_state import TrainState, create_train_state, init_params


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
      normalise: whether the encoder takes pixels less ImageNet's mean, over its deviation.
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
    normalise: bool
    seed: int
    accumulate: int = 1

    def encoder_input(self, pixels: jax.Array) -> jax.Array:
        """Pixels [..., 3] in [0, 1] as the encoder takes them."""
        return encoder_input(pixels, self.normalise)

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
    branch = repre.build(config.repre, encoder, config.model, dtype)
    _check_views(method, encoder, branch, config.method.name)
    learning_rate = LEARNING_RATE_SCHEDULES[config.optimizer.schedule](
        resolution.learning_rate, resolution.clock, resolution.warm_up
    )
    optimizer = _build_optimizer(config, resolution, learning_rate, encoder, method, branch)
    return Learner(
        encoder=encoder,
        method=method,
        repre=branch,
        optimizer=optimizer,
        learning_rate=learning_rate,
        image_size=config.model.image_size,
        normalise=config.model.normalise,
        seed=config.seed,
        accumulate=config.train.accumulate,
    )


def _build_optimizer(config, resolution, learning_rate, encoder, method, branch):
    def initial_params():
        size, seed = config.model.image_size, config.seed
        return init_params(encoder, method, branch, image_size=size, seed=seed)[0]

    def held_learning_rate(step):
        peak = jnp.float32(resolution.learning_rate)
        return jnp.where(step < resolution.warm_up.steps, learning_rate(step), peak)

    return optimizers.build_optimizer(
        config.optimizer.name,
        jax.eval_shape(initial_params),
        learning_rate=learning_rate,
        held_learning_rate=held_learning_rate,
        weight_decay=cosine(
            config.optimizer.weight_decay,
            config.optimizer.end_weight_decay,
            total_steps=resolution.clock.total_steps,
        ),
        decay=config.optimizer.decay,
        momentum=config.optimizer.momentum,
        clip_per_tensor=config.optimizer.clip_per_tensor,
        clip_global=config.optimizer.clip_global,
        frozen=method.frozen,
        constant_rate=method.constant_rate,
    )


def _check_views(method: Method, encoder: nn.Module, branch: RePre | None, name: str) -> None:
    crops, size, multiple = method.views.local_crops, method.views.local_size, encoder.size_multiple
    if crops and not method.multi_crop:
        raise UserError(
            f"views.local_crops={crops}, but the loss of {name} has no use for local crops: set "
            "views.local_crops=0."
        )
    if crops and size % multiple:
        raise UserError(
            f"views.local_size={size} is not a multiple of model.patch_size={multiple}."
        )
    if branch and method.online_views[0] != 0:
        raise UserError(
            f"RePre reconstructs view 1, and {name} does not pass it whole through the online "
            "encoder first; train it as the :baseline variant."
        )
