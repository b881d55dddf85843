"""The parts of a run: those that never change, and the state, which does."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from repre_jax.errors import UserError
from repre_jax.image_size import height_and_width
from repre_jax.methods import BRANCHES, METHODS
from repre_jax.methods.branch import Branch
from repre_jax.methods.method import FROZEN_PATCH_EMBEDDING, Keys, Method, WholeViews
from repre_jax.models import build_encoder, cudnn_attention
from repre_jax.models.conv_stem import conv_stem, trunk
from repre_jax.random_streams import Stream, example_keys, step_key
from repre_jax.schedules import LEARNING_RATE_SCHEDULES, Clock, Schedule, cosine
from repre_jax.training import optimizers
from repre_jax.training.resolution import Resolution

NO_RUN = Clock(1, 1)  # for a method of which no step is taken: what it shows has no schedule


class TrainState(struct.PyTreeNode):
    """State of a run after ``step`` steps; parameters and moments are float32.

    Attributes:
      step: int32, steps taken, skipped ones included; every schedule is a function of it.
      params: {"encoder", "heads", "tokens"?, "repre"?}.
      target_params: {"encoder", "heads"}: moving average, only the heads that the target has; {}
        for methods without a target network.
      batch_stats: running statistics of the online heads and, under "encoder", of an encoder that
        has BatchNorm.
      target_batch_stats: those of the target network; its own, never a copy or an average.
      opt_state: of the optimizer.
      memory: what the method remembers (DINO's centre, the queues of MoCo v2 and MoBY); {} mostly.
      nonfinite_steps: int32, steps skipped because loss or gradient was not finite.
      nonfinite_in_a_row: int32, how many of them directly before now.
    """

    step: jax.Array
    params: Any
    target_params: Any
    batch_stats: Any
    target_batch_stats: Any
    opt_state: Any
    memory: Any
    nonfinite_steps: jax.Array
    nonfinite_in_a_row: jax.Array


@dataclasses.dataclass(frozen=True)
class Learner:
    """What the train step is made of.

    Attributes:
      encoder: the vision transformer.
      method: the framework.
      repre: the reconstruction branch; None for the baseline.
      optimizer: optax transformation that takes the keyword ``step``.
      learning_rate: the schedule in ``optimizer``, for the logs.
      seed: of every random draw.
      accumulate: micro-batches that the encoder sees one after the other. The gradient is that of
        the whole batch all the same, in-batch negatives and BatchNorm included.
    """

    encoder: nn.Module
    method: Method
    repre: Branch | None
    optimizer: optax.GradientTransformationExtraArgs
    learning_rate: Schedule
    seed: int
    accumulate: int = 1

    @property
    def taps(self) -> tuple[int, ...]:
        """Blocks whose maps of view 1 the branch wants."""
        return self.repre.taps if self.repre else ()

    @functools.cached_property
    def shapes(self) -> TrainState:
        """Shapes and dtypes of a state, for which ``init`` is traced once: seconds for a ViT-B."""
        return jax.eval_shape(self.init)

    def keys(self, batch: dict[str, jax.Array], step: jax.Array) -> Keys:
        """Randomness of the forward pass on a batch with "epoch" and "index" int32 [B]."""
        return forward_keys(self.seed, batch, step)

    def init(self, start: Any = None) -> TrainState:
        """The state at step 0, a function of the seed and ``start``; meant to be jitted.

        The target starts as a copy of the online network.

        Args:
          start: {"params", "batch_stats"}, subtrees of the state's that replace random weights.
        """
        method = self.method
        params, batch_stats = init_params(self.encoder, method, self.repre, seed=self.seed)
        if start is not None:
            params = _replaced(params, start["params"])
            batch_stats = _replaced(batch_stats, start["batch_stats"])
        averaged = (*method.target.heads, "encoder") if method.target else ()
        target_stats = {name: x for name, x in batch_stats.items() if name in averaged}
        memory_key = jax.random.fold_in(jax.random.key(self.seed), Stream.MEMORY)
        zero = jnp.zeros((), jnp.int32)
        return TrainState(
            step=zero,
            params=params,
            target_params=jax.tree.map(jnp.copy, target_part(method, params)),
            batch_stats=batch_stats,
            target_batch_stats=jax.tree.map(jnp.copy, target_stats),
            opt_state=self.optimizer.init(params),
            memory=method.memory.init(memory_key) if method.memory else {},
            nonfinite_steps=zero,
            nonfinite_in_a_row=zero,
        )


def forward_keys(seed: int, batch: dict[str, jax.Array], step: jax.Array) -> Keys:
    """``Learner.keys`` of a run with this seed."""
    examples = example_keys(seed, Stream.MASKS, batch["epoch"], batch["index"])
    return Keys(examples, step_key(seed, Stream.DROP_PATH, step))


def _replaced(tree: Any, by: Any) -> Any:
    return unflatten_dict(flatten_dict(tree) | flatten_dict(by))


def init_encoder(encoder: nn.Module, *, seed: int) -> tuple[Any, Any]:
    """Initial (params, batch_stats) of the encoder alone, as ``init_params`` has for the same seed.

    Without BatchNorm, batch_stats is {}.
    """
    image = jnp.zeros((1, *height_and_width(encoder.image_size), encoder.channels))
    variables = encoder.init(jax.random.split(jax.random.key(seed), 3)[0], image)
    return variables["params"], variables.get("batch_stats", {})


def init_params(
    encoder: nn.Module, method: Method, branch: Branch | None, *, seed: int
) -> tuple[Any, Any]:
    """Initial (params, batch_stats), a function of the seed alone.

    Runs the encoder on one image; use it under ``jax.jit`` or ``jax.eval_shape``.
    """
    keys = jax.random.split(jax.random.key(seed), 3)
    encoder_params, encoder_stats = init_encoder(encoder, seed=seed)
    params = {"encoder": encoder_params}
    if method.tokens:
        params["tokens"] = method.tokens(jax.random.fold_in(keys[0], Stream.MASKS))

    def encode(params):
        size = (*height_and_width(encoder.image_size), encoder.channels)
        if conv_stem(encoder):
            size = (*encoder.grid, encoder.width)
        random = Keys(jax.random.split(keys[0], 2), keys[0])
        pixels = jnp.zeros((2, method.views.global_crops, *size))
        views = {"global": pixels, "index": jnp.zeros(2, jnp.int32)}
        taps = branch.taps if branch else ()
        encoded = method.encode(trunk(encoder), params, views, random, taps)
        return encoded.inputs, encoded.maps

    # Heads and branch are made for shapes; what the encoder says about black images is not asked.
    shapes = jax.eval_shape(encode, params)
    inputs, maps = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    heads = method.heads.init(keys[1], inputs, train=True)
    params["heads"] = heads["params"]
    if branch:
        params["repre"] = branch.init(keys[2], maps)
    batch_stats = dict(heads.get("batch_stats", {}))
    if encoder_stats:
        batch_stats["encoder"] = encoder_stats
    return params, batch_stats


def target_part(method: Method, params: Any) -> Any:
    """The part of the online parameters that the target network averages."""
    if method.target is None:
        return {}
    heads = {name: params["heads"][name] for name in method.target.heads}
    return {"encoder": params["encoder"], "heads": heads}


def build_learner(config: ConfigDict, resolution: Resolution) -> Learner:
    """The parts that a config names, for a run of this length.

    Raises:
      UserError: parts that do not fit together.
    """
    encoder = build_encoder(config, resolution.compute_dtype)
    method = build_method(config, encoder, resolution.clock)
    method.check_images(resolution.images)
    branch = build_branch(config, encoder, method)
    _check_views(method, encoder, branch, config.method.name)
    _check_stem(method, encoder, config)
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
        seed=config.seed,
        accumulate=config.train.accumulate,
    )


def build_method(config: ConfigDict, encoder: nn.Module, clock: Clock = NO_RUN) -> Method:
    """The framework of a config, for a run of this length or for none."""
    return METHODS[config.method.name].build(config.method, config.views, clock, encoder)


def build_branch(config: ConfigDict, encoder: nn.Module, method: Method) -> Branch | None:
    """The reconstruction branch of a config, None for the baseline."""
    if not config.repre.enabled:
        return None
    build = BRANCHES[config.repre.branch].build
    return build(config.repre, encoder, config.model, method.loss_name)


def remarks(resolution: Resolution, learner: Learner) -> list[str]:
    """What the user may not have meant by a run, in sentences; mostly none."""
    seen = resolution.clock.total_steps * resolution.batch_size
    found = [*resolution.remarks, *learner.method.remarks(seen)]
    channels, views = learner.encoder.channels, learner.method.views
    if channels != 3 and (views.jitter_probability or views.grey_probability):
        found.append(
            f"Of images of {channels} channel(s), colour jitter changes brightness and contrast "
            "alone, and none becomes grey."
        )
    form = learner.encoder.block_form
    refusal = cudnn_attention.misses(form.head_width, learner.encoder.dtype, form.biased)
    if refusal is not None:
        found.append(
            f"cuDNN does not take attention with heads of {form.head_width} channels here "
            f"({refusal}): every block writes its pairs of tokens, which costs memory and time."
        )
    return found


def _build_optimizer(config, resolution, learning_rate, encoder, method, branch):
    def initial_params():
        return init_params(encoder, method, branch, seed=config.seed)[0]

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
        betas=(config.optimizer.beta_1, config.optimizer.beta_2),
        momentum=config.optimizer.momentum,
        clip_per_tensor=config.optimizer.clip_per_tensor,
        clip_global=config.optimizer.clip_global,
        frozen=method.frozen,
        constant_rate=method.constant_rate,
    )


def _check_views(method: Method, encoder: nn.Module, branch: Branch | None, name: str) -> None:
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
    if branch and not method.sees_view_1:
        raise UserError(
            f"RePre reconstructs view 1, and {name} does not pass it whole through the online "
            "encoder: set repre.enabled=false."
        )


def _check_stem(method: Method, encoder: nn.Module, config: ConfigDict) -> None:
    if conv_stem(encoder) is None:
        return
    if not isinstance(method.encode, WholeViews):
        raise UserError(
            f"{config.method.name} hides patches, and those of {config.model.name}'s stem overlap: "
            "take a model whose name has no conv."
        )
    if FROZEN_PATCH_EMBEDDING in method.frozen:
        raise UserError(
            f"{config.model.name} has a stem that is to be trained in place of a linear patch "
            "embedding: set method.freeze_patch_embedding=false."
        )
