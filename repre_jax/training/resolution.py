"""From the independent numbers of a config to the numbers of a run: steps, rates, divisibility."""

import dataclasses

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from repre_jax.errors import UserError
from repre_jax.image_size import check_image_size
from repre_jax.methods import BRANCHES, METHODS, windows
from repre_jax.methods.branch import WEIGHTINGS
from repre_jax.methods.repre import OPERATORS, check_taps
from repre_jax.models import BACKBONES
from repre_jax.models.layers import INITIALISATIONS
from repre_jax.models.vit import POSITIONS
from repre_jax.ranges import (
    AT_LEAST_ONE,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    SHARE,
    SHARE_BELOW_ONE,
    Range,
    check_ranges,
)
from repre_jax.schedules import LEARNING_RATE_SCHEDULES, Clock, WarmUp
from repre_jax.training import defaults
from repre_jax.training.optimizers import DECAY_RULES, OPTIMIZERS

COMPUTE_DTYPES = ("auto", "float32", "bfloat16")

RANGES = {
    "seed": SEED,
    "model.patch_size": AT_LEAST_ONE,
    "model.image_size": AT_LEAST_ONE,
    "model.channels": AT_LEAST_ONE,
    "model.width": AT_LEAST_ONE,
    "model.depth": AT_LEAST_ONE,
    "model.heads": AT_LEAST_ONE,
    "model.stage_depths": AT_LEAST_ONE,
    "model.stage_heads": AT_LEAST_ONE,
    "model.window": AT_LEAST_ONE,
    "model.norm_epsilon": POSITIVE,
    "model.drop_path": SHARE_BELOW_ONE,
    "data.workers": NOT_NEGATIVE,
    "data.cache_size": NOT_NEGATIVE,
    "data.mean": SHARE,
    "data.std": POSITIVE,
    "train.batch_size": Range(2),
    "train.epochs": AT_LEAST_ONE,
    "train.steps": AT_LEAST_ONE,
    "train.accumulate": AT_LEAST_ONE,
    "train.devices": NOT_NEGATIVE,
    "train.max_nonfinite_steps": AT_LEAST_ONE,
    "optimizer.learning_rate": POSITIVE,
    "optimizer.start_learning_rate": NOT_NEGATIVE,
    "optimizer.end_learning_rate": NOT_NEGATIVE,
    "optimizer.warmup_epochs": NOT_NEGATIVE,
    "optimizer.weight_decay": NOT_NEGATIVE,
    "optimizer.end_weight_decay": NOT_NEGATIVE,
    "optimizer.momentum": SHARE_BELOW_ONE,
    "optimizer.beta_1": SHARE_BELOW_ONE,
    "optimizer.beta_2": SHARE_BELOW_ONE,
    "optimizer.clip_per_tensor": NOT_NEGATIVE,
    "optimizer.clip_global": NOT_NEGATIVE,
    "checkpoint.every_steps": NOT_NEGATIVE,
    "checkpoint.keep": AT_LEAST_ONE,
    "evaluation.knn_every_epochs": NOT_NEGATIVE,
    "evaluation.neighbours": AT_LEAST_ONE,
    "evaluation.batch_size": AT_LEAST_ONE,
    "logging.every_steps": NOT_NEGATIVE,
    "repre.fixed_weights": NOT_NEGATIVE,
    "repre.decoder.layers": AT_LEAST_ONE,
    "repre.decoder.width": AT_LEAST_ONE,
    **{f"repre.windows.{key}": allowed for key, allowed in windows.RANGES.items()},
}


@dataclasses.dataclass(frozen=True)
class Resolution:
    """What a config means for so many images and devices.

    Attributes:
      clock: steps of an epoch (the last, partial batch is dropped) and of the run.
      images: in the training set.
      devices: that share a step.
      batch_size: images a step, over all devices.
      rows_per_device: images that a device's encoder sees at once.
      learning_rate: peak, scaled from a batch of 256 to this one.
      warm_up: of the learning rate, and where that ends.
      compute_dtype: of activations; parameters are float32 always.
    """

    clock: Clock
    images: int
    devices: int
    batch_size: int
    rows_per_device: int
    learning_rate: float
    warm_up: WarmUp
    compute_dtype: jnp.dtype

    @property
    def epochs(self) -> float:
        """Length of the run in epochs."""
        return self.clock.total_steps / self.clock.steps_per_epoch

    @property
    def remarks(self) -> list[str]:
        """What the user may not have meant, in sentences; mostly none.

        DINO's code stops at a warm-up longer than the run, those of the other papers go on in it.
        """
        if self.warm_up.steps <= self.clock.total_steps:
            return []
        return [
            f"The warm-up of {self.warm_up.steps:,} steps is longer than the run of "
            f"{self.clock.total_steps:,}: the learning rate never reaches its peak, so lower "
            "optimizer.warmup_epochs or train longer."
        ]


def resolve(
    config: ConfigDict, *, images: int, devices: int, on_cpu: bool | None = None
) -> Resolution:
    """Derives the numbers of a run and checks that they fit together.

    Args:
      config: of a pre-training run.
      images: in the training set.
      devices: that share a step.
      on_cpu: whether they are a CPU's; None: those of this process, whatever they are.

    Raises:
      UserError: a name that does not exist, or numbers that do not fit.
    """
    _check_names(config)
    check_ranges(config, ranges_of(config.method.name))
    check_image_size(config.model.image_size, "model.image_size")
    batch_size, accumulate = config.train.batch_size, config.train.accumulate
    if batch_size % (devices * accumulate):
        raise UserError(
            f"train.batch_size={batch_size} cannot be split over {devices} device(s) x "
            f"train.accumulate={accumulate}; choose a multiple of {devices * accumulate}."
        )
    if images < batch_size:
        raise UserError(
            f"The training set has {images} images, fewer than train.batch_size={batch_size}; "
            "lower the batch size."
        )
    steps_per_epoch = images // batch_size
    total_steps = config.train.steps or steps_per_epoch * config.train.epochs
    clock = Clock(steps_per_epoch, total_steps)
    scale = batch_size / 256
    end_scale = scale if config.optimizer.scale_ends else 1.0
    return Resolution(
        clock=clock,
        images=images,
        devices=devices,
        batch_size=batch_size,
        rows_per_device=batch_size // (devices * accumulate),
        learning_rate=config.optimizer.learning_rate * scale,
        warm_up=WarmUp(
            steps=clock.steps(config.optimizer.warmup_epochs),
            start=config.optimizer.start_learning_rate * end_scale,
            end=config.optimizer.end_learning_rate * end_scale,
        ),
        compute_dtype=compute_dtype(config.train.compute_dtype, on_cpu),
    )


def ranges_of(method: str) -> dict[str, Range]:
    """Ranges of every number of a config of ``method``."""
    own = METHODS[method].RANGES
    return RANGES | {f"method.{key}": allowed for key, allowed in own.items()}


def _check_names(config: ConfigDict) -> None:
    choices = {
        "method.name": (config.method.name, METHODS),
        "model.name": (config.model.name, BACKBONES),
        "model.position": (config.model.position, (None, *POSITIONS)),
        "model.initialisation": (config.model.initialisation, INITIALISATIONS),
        "repre.branch": (config.repre.branch, BRANCHES),
        "repre.decoder.operator": (config.repre.decoder.operator, OPERATORS),
        "repre.weighting": (config.repre.weighting, WEIGHTINGS),
        "repre.windows.pairing": (config.repre.windows.pairing, windows.PAIRINGS),
        "optimizer.name": (config.optimizer.name, OPTIMIZERS),
        "optimizer.schedule": (config.optimizer.schedule, LEARNING_RATE_SCHEDULES),
        "optimizer.decay": (config.optimizer.decay, DECAY_RULES),
        "train.compute_dtype": (config.train.compute_dtype, COMPUTE_DTYPES),
    }
    for key, (value, allowed) in choices.items():
        if value not in allowed:
            names = ", ".join(name for name in allowed if name)
            raise UserError(f"{key}={value!r} must be one of {names}.")
    check_taps(config.repre.taps)
    if len(config.repre.fixed_weights) != 2:
        raise UserError(
            f"repre.fixed_weights={config.repre.fixed_weights} must be two numbers, the weights of "
            "the method's loss and reconstruct."
        )
    _check_branch(config)
    if set(config.method) != set(METHODS[config.method.name].default_config()):
        raise UserError(
            f"method.name={config.method.name!r} does not fit this config, which has the numbers "
            f"of another method: take a config of its own, such as {config.method.name}_vits."
        )


def _check_branch(config: ConfigDict) -> None:
    """Raises UserError for settings of the branch that its kind does not read."""
    repre, usual = config.repre, defaults.get_config(config.method.name).repre
    if not repre.enabled:
        return
    if repre.weighting != "fixed" and tuple(repre.fixed_weights) != tuple(usual.fixed_weights):
        raise UserError(
            f"repre.fixed_weights={tuple(repre.fixed_weights)} is given, and repre.weighting="
            f"{repre.weighting} does not read it: set repre.weighting=fixed, too."
        )
    of_decoder, as_usual = ((x.taps, x.decoder.to_dict()) for x in (repre, usual))
    if repre.branch == "windows" and of_decoder != as_usual:
        raise UserError(
            "repre.branch=windows has neither taps nor a decoder: leave repre.taps, repre.decoder "
            "and the variants that set them out."
        )


def compute_dtype(name: str, on_cpu: bool | None = None) -> jnp.dtype:
    """The type of activations: "float32", "bfloat16", or what suits the device ("auto").

    Args:
      name: of ``COMPUTE_DTYPES``.
      on_cpu: as of ``resolve``.
    """
    if on_cpu is None:
        on_cpu = jax.default_backend() == "cpu"
    if name == "auto":
        name = "float32" if on_cpu else "bfloat16"
    return jnp.dtype(name)
