"""Linear segmentation: BatchNorm and one linear layer on the patches of a frozen encoder.

As in the image probe, heads differ in learning rate and in the seed of their first kernel, are
trained side by side on one forward pass, and none sees another's gradient. Blocks are judged side
by side as well, each by heads of its own.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from repre_jax.data.segmentation.label_maps import VOID
from repre_jax.evaluation.linear.probe import batch_norm, head_optimizer, standardised
from repre_jax.evaluation.linear.protocols import LinearProtocol
from repre_jax.evaluation.segmentation.confusion import confusion_matrix
from repre_jax.evaluation.segmentation.maps import block_maps, fuse
from repre_jax.random_streams import Stream, example_keys
from repre_jax.schedules import Clock

# The heads' optimizer: plain SGD with momentum 0.9, whose rate follows half a cosine. BatchNorm is
# the image probe's, with MAE's epsilon of 1e-6; DINOv2's BNHead has 1e-5.
PROTOCOL = LinearProtocol(source="", optimizer="sgd", schedule="cosine_by_step", batch_norm=True)


class ProbeState(struct.PyTreeNode):
    """Everything that changes while heads are trained.

    Attributes:
      step: int32, steps taken.
      heads: name of the features -> {"kernel": [H, F, C], "bias": [H, C]}, float32.
      opt_state: of every head, stacked; by the same names.
      statistics: by the same names, {"mean": [F], "variance": [F]}.
    """

    step: jax.Array
    heads: dict[str, dict[str, jax.Array]]
    opt_state: dict[str, Any]
    statistics: dict[str, dict[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class SegmentationProbe:
    """The unchanging parts.

    Attributes:
      encoder: frozen.
      blocks: whose maps are judged.
      names: of the features, those of ``maps.names_of``.
      clock: how long.
      classes: C.
      learning_rates: peaks; one group of heads each.
      seeds: heads in a group; kernel s is the same in every group.
      seed: of kernels and flips.
    """

    encoder: nn.Module
    blocks: tuple[int, ...]
    names: tuple[str, ...]
    clock: Clock
    classes: int
    learning_rates: tuple[float, ...]
    seeds: int
    seed: int

    @property
    def rates(self) -> np.ndarray:
        """Peak learning rate of every head, [H]."""
        return np.repeat(np.asarray(self.learning_rates, np.float32), self.seeds)

    def init(self, widths: Sequence[int]) -> ProbeState:
        """The state at step 0, for features of these widths; meant to be jitted."""
        root = jax.random.fold_in(jax.random.key(self.seed), Stream.HEAD)
        keys, groups = jax.random.split(root, self.seeds), len(self.learning_rates)
        heads, opt_state, statistics = {}, {}, {}
        for name, width in zip(self.names, widths, strict=True):
            shape = (width, self.classes)
            kernels = jax.vmap(lambda key, s=shape: PROTOCOL.initialiser(key, s, jnp.float32))(keys)
            heads[name] = {
                "kernel": jnp.tile(kernels, (groups, 1, 1)),
                "bias": jnp.zeros((groups * self.seeds, self.classes)),
            }
            opt_state[name] = jax.vmap(head_optimizer(PROTOCOL, 1.0).init)(heads[name])
            statistics[name] = {"mean": jnp.zeros(width), "variance": jnp.ones(width)}
        return ProbeState(jnp.zeros((), jnp.int32), heads, opt_state, statistics)

    def features(self, params: Any, images: jax.Array) -> list[jax.Array]:
        """Of every name: float32 [B, gh, gw, F] of images of levels."""
        maps = block_maps(self.encoder, params, images, self.blocks)
        return [*maps, fuse(maps)] if len(self.names) > len(maps) else maps

    def train_step(
        self, params: Any, state: ProbeState, batch: dict[str, jax.Array]
    ) -> tuple[ProbeState, dict[str, jax.Array]]:
        """One step of every head on images that are flipped half the time.

        Args:
          params: of the encoder.
          state: of the heads.
          batch: of ``views.whole_batches``.

        Returns:
          (next state, {"loss": of the best head}).
        """
        images, labels = self._flipped(batch, state.step)
        features = jax.lax.stop_gradient(self.features(params, images))
        share = PROTOCOL.schedule_of(self.clock)(state.step)
        heads, opt_state, statistics, losses = {}, {}, {}, []
        for name, feature in zip(self.names, features, strict=True):
            flat = feature.reshape(-1, feature.shape[-1])
            flat, statistics[name] = batch_norm(flat, state.statistics[name])
            feature = flat.reshape(feature.shape)

            def update(head, moments, rate, feature=feature):
                loss, gradient = jax.value_and_grad(pixel_loss)(head, feature, labels)
                optimizer = head_optimizer(PROTOCOL, rate * share)
                updates, moments = optimizer.update(gradient, moments, head)
                return optax.apply_updates(head, updates), moments, loss

            # One after the other: the logits of all heads at once would be gigabytes.
            heads[name], opt_state[name], loss = jax.lax.map(
                lambda head, update=update: update(*head),
                (state.heads[name], state.opt_state[name], jnp.asarray(self.rates)),
            )
            losses.append(loss)
        following = ProbeState(state.step + 1, heads, opt_state, statistics)
        return following, {"loss": jnp.nanmin(jnp.concatenate(losses))}

    def confusions(
        self, params: Any, state: ProbeState, batch: dict[str, jax.Array]
    ) -> dict[str, jax.Array]:
        """What the heads make of a batch: name -> int32 [H, C, C + 1]."""
        found = {}
        features = self.features(params, batch["image"])
        for name, feature in zip(self.names, features, strict=True):
            feature = standardised(feature, **state.statistics[name])

            def count(head, feature=feature):
                logits = pixel_logits(head, feature, batch["label"].shape[1:])
                return confusion_matrix(batch["label"], logits.argmax(axis=-1), self.classes)

            found[name] = jax.lax.map(count, state.heads[name])
        return found

    def predictions(
        self, params: Any, state: ProbeState, images: jax.Array, name: str, head: int
    ) -> jax.Array:
        """Classes uint8 [B, H, W] of images of levels by one head of the features of a name."""
        feature = self.features(params, images)[self.names.index(name)]
        feature = standardised(feature, **state.statistics[name])
        chosen = jax.tree.map(lambda x: x[head], state.heads[name])
        logits = pixel_logits(chosen, feature, images.shape[1:3])
        return logits.argmax(axis=-1).astype(jnp.uint8)

    def _flipped(self, batch: dict[str, jax.Array], step: jax.Array) -> tuple[jax.Array, jax.Array]:
        epoch = jnp.full_like(batch["index"], self.clock.epoch(step))
        keys = example_keys(self.seed, Stream.SEGMENTATION, epoch, batch["index"])
        flips = jax.vmap(jax.random.bernoulli)(keys)
        images, labels = batch["image"], batch["label"]
        images = jnp.where(flips[:, None, None, None], images[:, :, ::-1], images)
        return images, jnp.where(flips[:, None, None], labels[:, :, ::-1], labels)


def pixel_logits(
    head: dict[str, jax.Array], features: jax.Array, size: tuple[int, int]
) -> jax.Array:
    """Logits float32 [B, H, W, C] of features [B, gh, gw, F], resized bilinearly."""
    highest = jax.lax.Precision.HIGHEST
    logits = jnp.einsum("bhwf,fc->bhwc", features, head["kernel"], precision=highest)
    logits = logits + head["bias"]
    shape = (len(logits), *size, logits.shape[-1])
    return jax.image.resize(logits, shape, "linear", antialias=False)


def pixel_loss(head: dict[str, jax.Array], features: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross-entropy over the pixels [B, H, W] that have a class."""
    logits = pixel_logits(head, features, labels.shape[1:])
    known = labels != VOID
    classes = jnp.where(known, labels, 0).astype(jnp.int32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, classes)
    return jnp.sum(losses * known) / jnp.maximum(known.sum(), 1)
