"""Linear probes: many heads, trained side by side on one forward pass of the frozen encoder.

Heads differ in learning rate and in the seed of their first kernel. They share images, crops and
features, and no head sees another's gradient: each is trained as if it were alone.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import Mesh

from repre_jax.data.device.augment import augment_views
from repre_jax.evaluation.frozen import frozen_features
from repre_jax.evaluation.linear.protocols import LinearProtocol
from repre_jax.models.pixels import encoder_input
from repre_jax.random_streams import Stream, step_key
from repre_jax.schedules import Clock
from repre_jax.sharding import by_row, jitted, replicated, rounded_up
from repre_jax.training.optimizers import TRUST_RATIO, clip_by_global_norm

MOMENTUM = 0.9
_BATCH_NORM_EPSILON = 1e-6  # main_linprobe.py
_RUNNING = 0.1  # torch's momentum of running statistics
_VALIDATION_CHUNK = 1024
TOP = (1, 5)


class ProbeState(struct.PyTreeNode):
    """Everything that changes while heads are trained.

    Attributes:
      step: int32, steps taken.
      heads: {"kernel": [H, F, C], "bias": [H, C]}, float32.
      opt_state: of every head, stacked.
      statistics: {"mean": [F], "variance": [F]} of the features; {} without BatchNorm.
      hits: int32 [epochs, H, 2], validation images right (first, among first five) after each
        epoch; 0 for those to come.
    """

    step: jax.Array
    heads: dict[str, jax.Array]
    opt_state: Any
    statistics: dict[str, jax.Array]
    hits: jax.Array


@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """The unchanging parts.

    Attributes:
      encoder: frozen.
      protocol: how heads are trained.
      clock: how long.
      classes: C.
      learning_rates: peaks, scaled to the batch; one group of heads each.
      seeds: heads in a group; kernel s is the same in every group.
      seed: of kernels, flips and drop path.
    """

    encoder: nn.Module
    protocol: LinearProtocol
    clock: Clock
    classes: int
    learning_rates: tuple[float, ...]
    seeds: int
    seed: int

    @property
    def rates(self) -> np.ndarray:
        """Peak learning rate of every head, [H]."""
        return np.repeat(np.asarray(self.learning_rates, np.float32), self.seeds)

    @property
    def epochs(self) -> int:
        """Epochs of the run."""
        return self.clock.total_steps // self.clock.steps_per_epoch

    def init(self, width: int) -> ProbeState:
        """The state at step 0, for features of this width; meant to be jitted."""
        root = jax.random.fold_in(jax.random.key(self.seed), Stream.HEAD)
        shape = (width, self.classes)
        kernels = jax.vmap(lambda key: self.protocol.initialiser(key, shape, jnp.float32))(
            jax.random.split(root, self.seeds)
        )
        groups = len(self.learning_rates)
        heads = {
            "kernel": jnp.tile(kernels, (groups, 1, 1)),
            "bias": jnp.zeros((groups * self.seeds, self.classes)),
        }
        statistics = {}
        if self.protocol.batch_norm:
            statistics = {"mean": jnp.zeros(width), "variance": jnp.ones(width)}
        return ProbeState(
            step=jnp.zeros((), jnp.int32),
            heads=heads,
            opt_state=jax.vmap(head_optimizer(self.protocol, 1.0).init)(heads),
            statistics=statistics,
            hits=jnp.zeros((self.epochs, len(self.rates), len(TOP)), jnp.int32),
        )

    def features(self, params: Any, batch: dict[str, jax.Array], step: jax.Array) -> jax.Array:
        """Features float32 [B, F] of a training batch's augmented crops."""
        protocol, encoder, options = self.protocol, self.encoder, {}
        pixels = augment_views(batch, protocol.views, self.seed)["global"][:, 0]
        if protocol.drop_path:
            encoder = encoder.clone(drop_path=protocol.drop_path)
            key = step_key(self.seed, Stream.DROP_PATH, step)
            options = {"train": True, "rngs": {"drop_path": key}}
        images = encoder_input(encoder, pixels)
        feature = protocol.feature_of(encoder)
        return frozen_features(encoder, params, images, feature, **options)

    def train_step(
        self,
        params: Any,
        state: ProbeState,
        batch: dict[str, jax.Array],
        validation: tuple[jax.Array, jax.Array],
    ) -> tuple[ProbeState, dict[str, jax.Array]]:
        """One step of every head, and after the last step of an epoch what the heads get right.

        Args:
          params: of the encoder.
          state: of the heads.
          batch: of ``data.pipeline.training_batches``.
          validation: of ``in_chunks``.

        Returns:
          (next state, metrics of the best head: "loss" of the batch and the validation images
          "val/hits" that it got right after the last epoch that is complete).
        """
        features = jax.lax.stop_gradient(self.features(params, batch, state.step))
        state, losses = self.update(state, features, batch["label"])
        state = jax.lax.cond(
            state.step % self.clock.steps_per_epoch == 0,
            lambda: self.note_hits(state, *validation),
            lambda: state,
        )
        complete = state.step // self.clock.steps_per_epoch
        hits = jnp.where(complete > 0, state.hits[complete - 1, :, 0].max(), 0)
        return state, {"loss": jnp.nanmin(losses), "val/hits": hits}

    def update(
        self, state: ProbeState, features: jax.Array, labels: jax.Array
    ) -> tuple[ProbeState, jax.Array]:
        """One step of every head on features [B, F] with labels int [B], -1 for unknown.

        Returns:
          (next state, loss of every head [H]).
        """
        statistics = state.statistics
        if self.protocol.batch_norm:
            features, statistics = batch_norm(features, statistics)
        smoothing = self.protocol.label_smoothing

        def loss(heads):
            losses = head_losses(heads, features, labels, smoothing)
            return losses.sum(), losses

        gradients, losses = jax.grad(loss, has_aux=True)(state.heads)
        share = self.protocol.schedule_of(self.clock)(state.step)

        def update_head(rate, gradient, opt_state, head):
            optimizer = head_optimizer(self.protocol, rate * share)
            updates, opt_state = optimizer.update(gradient, opt_state, head)
            return optax.apply_updates(head, updates), opt_state

        heads, opt_state = jax.vmap(update_head)(
            jnp.asarray(self.rates), gradients, state.opt_state, state.heads
        )
        state = state.replace(
            step=state.step + 1, heads=heads, opt_state=opt_state, statistics=statistics
        )
        return state, losses

    def note_hits(self, state: ProbeState, features: jax.Array, labels: jax.Array) -> ProbeState:
        """Counts what every head gets right and notes it under the epoch that has just ended.

        Args:
          state: after the last step of an epoch.
          features: [chunks, m, F] of the validation images.
          labels: int [chunks, m], -1 for padding.
        """
        heads, statistics = state.heads, state.statistics

        def count(chunk):
            x, label = chunk
            if self.protocol.batch_norm:
                x = standardised(x, statistics["mean"], statistics["variance"])
            rank = _rank_of(head_logits(heads, x), label)
            known = label >= 0
            return jnp.stack([jnp.sum((rank < top) & known, axis=1) for top in TOP], axis=1)

        hits = jax.lax.map(count, (features, labels)).sum(axis=0)
        epoch = state.step // self.clock.steps_per_epoch - 1
        return state.replace(hits=state.hits.at[epoch].set(hits))


def head_optimizer(protocol: LinearProtocol, rate: Any) -> optax.GradientTransformation:
    """The optimizer of one head {"kernel", "bias"} at a learning rate, which may be traced.

    "lars" adapts the kernel (facebookresearch/mae, util/lars.py); "larc" the bias, too (NVIDIA
    apex, parallel/LARC.py with clip=False): a bias of zero has no norm and moves unadapted once.
    """
    adapted = {
        "kernel": protocol.optimizer in ("lars", "larc"),
        "bias": protocol.optimizer == "larc",
    }
    return optax.chain(
        clip_by_global_norm(protocol.clip),
        optax.add_decayed_weights(protocol.weight_decay),
        optax.masked(TRUST_RATIO, adapted),
        optax.trace(MOMENTUM, nesterov=protocol.optimizer == "nesterov"),
        optax.scale_by_learning_rate(rate),
    )


def head_logits(heads: dict[str, jax.Array], features: jax.Array) -> jax.Array:
    """Features [B, F] -> logits [H, B, C] of all heads in one product."""
    highest = jax.lax.Precision.HIGHEST
    logits = jnp.einsum("bf,hfc->hbc", features, heads["kernel"], precision=highest)
    return logits + heads["bias"][:, None]


def head_losses(
    heads: dict[str, jax.Array], features: jax.Array, labels: jax.Array, smoothing: float
) -> jax.Array:
    """Mean cross-entropy of each head [H] over the examples whose label is known."""
    known = labels >= 0
    targets = optax.smooth_labels(jax.nn.one_hot(labels, heads["bias"].shape[1]), smoothing)
    losses = optax.softmax_cross_entropy(head_logits(heads, features), targets)
    return jnp.sum(losses * known, axis=1) / jnp.maximum(known.sum(), 1)


def in_chunks(features: np.ndarray, labels: np.ndarray, mesh: Mesh) -> tuple[jax.Array, jax.Array]:
    """Validation features as ``note_hits`` takes them, every chunk spread over the devices."""
    rows = rounded_up(min(_VALIDATION_CHUNK, len(labels)), mesh)
    count = -(-len(labels) // rows)
    padding = count * rows - len(labels)
    features = np.pad(features, ((0, padding), (0, 0))).reshape(count, rows, -1)
    labels = np.pad(labels, (0, padding), constant_values=-1).reshape(count, rows)
    return jax.device_put((features, labels), _chunks_spread(mesh))


def _chunks_spread(mesh: Mesh) -> jax.sharding.Sharding:
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "batch"))


def compiled_step(probe: LinearProbe, mesh: Mesh) -> Any:
    """``LinearProbe.train_step``, (params, state donated, batch, validation), on the devices."""
    same, spread = replicated(mesh), by_row(mesh)
    return jitted(
        probe.train_step,
        mesh,
        donate_argnums=1,
        in_shardings=(same, same, spread, _chunks_spread(mesh)),
        out_shardings=same,
    )


def linear_metrics(probe: LinearProbe, accuracies: np.ndarray) -> dict[str, Any]:
    """Accuracies [epochs, H, 2] of all heads as the metrics of ``results.json``.

    The learning rate is the one whose heads are best on average in the last epoch. "best" is the
    mean over its heads of each one's best epoch, which is what the papers' scripts report.
    """
    by_rate = accuracies.reshape(probe.epochs, len(probe.learning_rates), probe.seeds, len(TOP))
    last = by_rate[-1].mean(axis=1)[:, 0]
    best = by_rate[..., 0].max(axis=0).mean(axis=1)
    chosen = int(np.argmax(last))

    def summary(heads: np.ndarray) -> dict[str, float]:  # [S, 2]
        metrics = {"top1": float(heads[:, 0].mean())}
        if probe.seeds > 1:
            metrics["top1_std"] = float(heads[:, 0].std(ddof=1))
        if probe.classes > TOP[1]:
            metrics["top5"] = float(heads[:, 1].mean())
        return metrics

    return {
        "learning_rate": float(probe.learning_rates[chosen]),
        "last": summary(by_rate[-1, chosen]),
        "best": summary(by_rate[:, chosen].max(axis=0)),
        "epochs": probe.epochs,
        "heads": probe.seeds,
        "top1_by_epoch": by_rate[:, chosen, :, 0].mean(axis=1).tolist(),
        "by_learning_rate": [
            {"learning_rate": float(rate), "last": float(a), "best": float(b)}
            for rate, a, b in zip(probe.learning_rates, last, best, strict=True)
        ],
    }


def batch_norm(
    features: jax.Array, statistics: dict[str, jax.Array]
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """BatchNorm without scale and shift, in training; running variance unbiased as torch's."""
    mean, variance = features.mean(axis=0), features.var(axis=0)
    unbiased = variance * (len(features) / max(len(features) - 1, 1))
    fresh = {"mean": mean, "variance": unbiased}
    return (
        standardised(features, mean, variance),
        optax.incremental_update(fresh, statistics, _RUNNING),
    )


def standardised(features: jax.Array, mean: jax.Array, variance: jax.Array) -> jax.Array:
    """Features [..., F] by means and variances [F]."""
    return (features - mean) * jax.lax.rsqrt(variance + _BATCH_NORM_EPSILON)


def _rank_of(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """How many classes come before the right one, [H, m]; among equals the lower one comes first.

    What is not a number comes before everything: a head that has diverged gets nothing right.
    """
    index = jnp.broadcast_to(jnp.maximum(labels, 0)[None, :, None], (*logits.shape[:2], 1))
    right = jnp.take_along_axis(logits, index, axis=2)
    lower = jnp.arange(logits.shape[2]) < index
    return jnp.sum(~(logits <= right) | ((logits == right) & lower), axis=2)
