"""The train step: one pure function (state, batch) -> (state, metrics).

The batch that it sees is the global one (see ``sharding``). Nothing in here knows which framework
is trained, except through the parts of its ``Method``, nor which branch reconstructs, except
through its ``Branch``.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from repre_jax.data.device.augment import augment_views
from repre_jax.losses.meters import feature_std
from repre_jax.methods.method import Encoded, Keys, Method
from repre_jax.models.conv_stem import conv_stem, trunk
from repre_jax.models.pixels import encoder_input
from repre_jax.training import accumulation
from repre_jax.training.finite import taken_where_finite
from repre_jax.training.learner import Learner, TrainState, target_part
from repre_jax.training.optimizers import map_with_path
from repre_jax.training.placement import Placement
from repre_jax.training.stem import pass_stem

Views = dict[str, jax.Array]


def train_step(
    learner: Learner,
    state: TrainState,
    batch: dict[str, jax.Array],
    placement: Placement | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step of pre-training.

    Args:
      learner: static parts; bind it with ``functools.partial`` before ``jax.jit``.
      state: donated by the caller.
      batch: of ``data.pipeline``: "global" uint8 or uint16 [B, V, H, W, C], "local" the same
        [B, n, h, w, C] or absent, "index" and "epoch" int32 [B].
      placement: of the state, static as well; None where it is whole on every device.

    Returns:
      (next state, metrics: scalars, and "features" [B, D], the online features of view 1). A step
      whose loss or gradient is not finite changes nothing but the clock and the counters.
    """
    method = learner.method
    views = augmented_views(learner, batch)
    whole = placement.gathered(state) if placement else state
    gradients, outputs = loss_and_gradients(learner, whole, views, learner.keys(batch, state.step))
    if placement:
        gradients = placement.shared(gradients)
    grad_norm = optax.tree.norm(gradients)

    updates, opt_state = learner.optimizer.update(
        gradients, state.opt_state, state.params, step=state.step
    )
    params = optax.apply_updates(state.params, updates)
    target_params, memory, extra = state.target_params, state.memory, {}
    if method.target:
        momentum = extra["momentum"] = method.target.momentum(state.step)
        target_params = jax.tree.map(
            lambda target, online: target * momentum + online * (1 - momentum),
            target_params,
            target_part(method, params),
        )
    if method.memory:
        memory = method.memory.update(memory, outputs["target"])
    taken = state.replace(
        params=params,
        target_params=target_params,
        batch_stats=outputs["batch_stats"],
        target_batch_stats=outputs["target_batch_stats"],
        opt_state=opt_state,
        memory=memory,
    )
    new_state = taken_where_finite(taken, state, outputs["metrics"]["loss"], grad_norm)
    skipped = new_state.nonfinite_in_a_row > 0  # this step, that is
    new_state = new_state.replace(nonfinite_steps=state.nonfinite_steps + skipped)
    metrics = outputs["metrics"] | extra
    metrics |= {
        "learning_rate": learner.learning_rate(state.step),
        "grad_norm": grad_norm,
        "nonfinite_steps": new_state.nonfinite_steps,
        "nonfinite_in_a_row": new_state.nonfinite_in_a_row,
    }
    return new_state, metrics


def augmented_views(learner: Learner, batch: dict[str, jax.Array]) -> Views:
    """What ``loss_and_gradients`` takes, of a batch of the pipeline."""
    views = augment_views(batch, learner.method.views, learner.seed)
    return views | {"index": batch["index"]}


def loss_and_gradients(
    learner: Learner, state: TrainState, views: Views, keys: Keys
) -> tuple[Any, dict[str, Any]]:
    """Gradient of the total loss with respect to the online parameters, for augmented views.

    Args:
      learner: static parts.
      state: its parameters, statistics, memory and step are read.
      views: float32 in [0, 1], "global" [B, V, H, W, C] and perhaps "local" [B, n, s, s, C]; the
        method may ask for the images' "index" int32 [B].
      keys: of the batch.

    Returns:
      (gradients, {"metrics", "batch_stats", "target_batch_stats", "target"}).
    """
    target, target_stats = target_outputs(learner, state, views["global"])

    def stem(params):
        return stem_maps(learner, params, state.batch_stats, views)

    def parts(params, views, keys):
        """(what the heads take, weighted branch, (its error, feature)) of one micro-batch."""
        encoded = encode(learner, params, views, keys)
        weighted, error = branch_objective(learner, params, encoded.maps, views, keys)
        return encoded.inputs, weighted, (error, encoded.feature)

    def framework(params, inputs):
        return framework_objective(learner, state, params, inputs, target)

    gradients, (error, feature), aux, stem_stats = accumulation.gradients(
        learner, state.params, views, keys, stem, parts, framework
    )
    aux["batch_stats"] = aux["batch_stats"] | stem_stats
    metrics = _loss_metrics(learner, state.params, aux.pop("loss"), error)
    metrics |= aux.pop("metrics") | {"features": feature, "feature_std": feature_std(feature)}
    return gradients, aux | {
        "metrics": metrics,
        "target_batch_stats": target_stats,
        "target": target,
    }


def stem_maps(learner: Learner, params: Any, statistics: Any, views: Views) -> tuple[Views, Any]:
    """``pass_stem`` of the views that the online network sees; ({}, {}) without such a stem."""
    if conv_stem(learner.encoder) is None:
        return {}, {}
    params = stop_frozen(learner.method, params)
    seen = views | {"global": views["global"][:, : learner.method.encode.online[-1] + 1]}
    return pass_stem(learner.encoder, params["encoder"], statistics, seen)


def encode(learner: Learner, params: Any, views: Views, keys: Keys) -> Encoded:
    """The method's forward pass; parameters frozen for good are constants to it.

    Where the encoder has a convolutional stem, ``views["stem"]`` is what came out of it.
    """
    params = stop_frozen(learner.method, params)
    views = views | views.get("stem", {})
    return learner.method.encode(trunk(learner.encoder), params, views, keys, learner.taps)


def framework_objective(
    learner: Learner, state: TrainState, params: Any, inputs: Any, target: jax.Array | None
) -> tuple[jax.Array, dict[str, Any]]:
    """Weighted loss of the framework plus the regulariser of the weights, and what it leaves.

    Args:
      learner: static parts.
      state: with the statistics and the memory.
      params: online parameters.
      inputs: of the heads, of the whole batch; of a micro-batch where the method is separable.
      target: of ``target_outputs``.

    Returns:
      (scalar, {"loss": the method's own, "metrics", "batch_stats"}).
    """
    params = stop_frozen(learner.method, params)
    online, updated = learner.method.heads.apply(
        {"params": params["heads"], "batch_stats": state.batch_stats},
        inputs,
        train=True,
        mutable=["batch_stats"],
    )
    per_example, metrics = learner.method.loss(online, target, state.memory, state.step)
    loss = jnp.mean(per_example)
    aux = {"loss": loss, "metrics": metrics, "batch_stats": updated.get("batch_stats", {})}
    if learner.repre is None:
        return loss, aux
    weights = learner.repre.weighting.weights(params["repre"])
    return weights.framework * loss + weights.regulariser, aux


def branch_objective(
    learner: Learner, params: Any, maps: Sequence[jax.Array], views: Views, keys: Keys
) -> tuple[jax.Array | float, jax.Array | float]:
    """A micro-batch's shares of the weighted reconstruction loss, and of the loss itself.

    Args:
      learner: static parts.
      params: online parameters.
      maps: [b, gh, gw, D] of view 1 at the taps.
      views: of the micro-batch, augmented.
      keys: its own.
    """
    if learner.repre is None:
        return 0.0, 0.0
    params = stop_frozen(learner.method, params)
    pixels = views["global"][:, 0]
    errors = learner.repre.loss(learner.encoder, params, maps, pixels, keys)
    error = jnp.mean(errors) / learner.accumulate
    return learner.repre.weighting.weights(params["repre"]).reconstruct * error, error


def loss_gradient_norms(
    learner: Learner, state: TrainState, batch: dict[str, jax.Array]
) -> dict[str, jax.Array]:
    """Gradient norm of each loss by itself, unweighted, with respect to the online encoder.

    A diagnosis beside the train step (it costs about two more): with the weights in the metrics it
    says which loss moves the encoder.

    Args:
      learner: with RePre.
      state: as the train step would get it; it is not changed.
      batch: as of ``train_step``.

    Returns:
      {"encoder_grad_norm/<the method's loss>", "encoder_grad_norm/reconstruct"}.
    """
    views = augmented_views(learner, batch)
    target, _ = target_outputs(learner, state, views["global"])
    keys = learner.keys(batch, state.step)

    def losses(encoder):
        params = state.params | {"encoder": encoder}
        maps, _ = stem_maps(learner, params, state.batch_stats, views)
        encoded = encode(learner, params, views | {"stem": maps}, keys)
        _, aux = framework_objective(learner, state, params, encoded.inputs, target)
        pixels = views["global"][:, 0]
        stopped = stop_frozen(learner.method, params)
        errors = learner.repre.loss(learner.encoder, stopped, encoded.maps, pixels, keys)
        return jnp.stack([aux["loss"], jnp.mean(errors)])

    _, backward = jax.vjp(losses, state.params["encoder"])
    framework, reconstruct = (optax.tree.norm(backward(row)[0]) for row in jnp.eye(2))
    return {
        f"encoder_grad_norm/{learner.method.loss_name}": framework,
        "encoder_grad_norm/reconstruct": reconstruct,
    }


def target_outputs(
    learner: Learner, state: TrainState, global_views: jax.Array
) -> tuple[jax.Array | None, Any]:
    """The target network on views [B, V, H, W, C]: outputs [B, T, K] or None, new statistics."""
    target, params = learner.method.target, state.target_params
    if target is None:
        return None, {}
    global_views = global_views[:, target.views[0] : target.views[-1] + 1]
    encoder = trunk(learner.encoder)
    maps, stem_stats = pass_stem(
        learner.encoder, params["encoder"], state.target_batch_stats, {"global": global_views}
    )

    def pool(images):
        rows = encoder_input(encoder, images.reshape(-1, *images.shape[2:]))
        encoded = encoder.apply({"params": params["encoder"]}, rows)
        return encoded.pooled.reshape(*images.shape[:2], -1)

    pooled = accumulation.in_chunks(pool, maps.get("global", global_views), learner.accumulate)
    outputs, updated = learner.method.heads.apply(
        {"params": params["heads"], "batch_stats": state.target_batch_stats},
        pooled,
        method="target",
        mutable=["batch_stats"],
    )
    return jax.lax.stop_gradient(outputs), updated.get("batch_stats", {}) | stem_stats


def stop_frozen(method: Method, params: Any) -> Any:
    """Parameters frozen for good are constants: no gradient is computed for them."""
    forever = [f for f in method.frozen if f.until_step is None]

    def stop(path, x):
        return jax.lax.stop_gradient(x) if any(f.covers(path) for f in forever) else x

    return map_with_path(stop, params)


def _loss_metrics(learner, params, loss, error):
    name = learner.method.loss_name
    if learner.repre is None:
        return {"loss": loss, f"loss/{name}": loss}
    weights = learner.repre.weighting.weights(params["repre"])
    total = weights.framework * loss + weights.reconstruct * error + weights.regulariser
    return {
        "loss": total,
        f"loss/{name}": loss,
        "loss/reconstruct": error,
        f"weight/{name}": weights.framework,
        "weight/reconstruct": weights.reconstruct,
    }
