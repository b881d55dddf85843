"""The train step: one pure function (state, batch) -> (state, metrics).

The batch that it sees is the global one (see ``sharding``). Nothing in here knows which framework
is trained, except through the parts of its ``Method``; nothing but three lines knows of RePre.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from repre_jax.data.device.augment import augment_views
from repre_jax.losses.meters import feature_std
from repre_jax.models.taps import apply_with_taps
from repre_jax.training.learner import Learner
from repre_jax.training.optimizers import map_with_path
from repre_jax.training.train_state import TrainState, target_part

# Keeps the draws of drop path apart from all others of the same seed ("drop" in ASCII).
_DROP_PATH_STREAM = 0x64726F70


def train_step(
    learner: Learner, state: TrainState, batch: dict[str, jax.Array]
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step of pre-training.

    Args:
      learner: static parts; bind it with ``functools.partial`` before ``jax.jit``.
      state: donated by the caller.
      batch: of ``data.pipeline``: "global" uint8 [B, 2, S, S, 3], "local" uint8 [B, n, s, s, 3] or
        absent, "index" and "epoch" int32 [B].

    Returns:
      (next state, metrics: scalars, and "features" [B, D], the online features of view 1). A step
      whose loss or gradient is not finite changes nothing but the clock and the counters.
    """
    method = learner.method
    views = augment_views(batch, method.views, learner.seed)
    gradients, outputs = loss_and_gradients(learner, state, views)
    grad_norm = optax.tree.norm(gradients)

    updates, opt_state = learner.optimizer.update(
        gradients, state.opt_state, state.params, step=state.step
    )
    params = optax.apply_updates(state.params, updates)
    momentum = method.momentum(state.step)
    target_params = jax.tree.map(
        lambda target, online: target * momentum + online * (1 - momentum),
        state.target_params,
        target_part(method, params),
    )
    finite = jnp.isfinite(outputs["metrics"]["loss"]) & jnp.isfinite(grad_norm)
    skipped = 1 - finite.astype(jnp.int32)
    taken = state.replace(
        params=params,
        target_params=target_params,
        batch_stats=outputs["batch_stats"],
        target_batch_stats=outputs["target_batch_stats"],
        opt_state=opt_state,
        memory=method.update_memory(state.memory, outputs["target"]),
    )
    kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), taken, state)
    new_state = kept.replace(
        step=state.step + 1,
        nonfinite_steps=state.nonfinite_steps + skipped,
        nonfinite_in_a_row=(state.nonfinite_in_a_row + 1) * skipped,
    )
    metrics = outputs["metrics"] | {
        "learning_rate": learner.learning_rate(state.step),
        "grad_norm": grad_norm,
        "nonfinite_steps": new_state.nonfinite_steps,
        "nonfinite_in_a_row": new_state.nonfinite_in_a_row,
    }
    if method.target_heads is not None:
        metrics["momentum"] = momentum
    return new_state, metrics


def loss_and_gradients(
    learner: Learner, state: TrainState, views: dict[str, jax.Array]
) -> tuple[Any, dict[str, Any]]:
    """Gradient of the total loss with respect to the online parameters, for augmented views.

    Args:
      learner: static parts.
      state: its parameters, statistics, memory and step are read.
      views: float32 in [0, 1], "global" [B, 2, S, S, 3] and perhaps "local" [B, n, s, s, 3].

    Returns:
      (gradients, {"metrics", "batch_stats", "target_batch_stats", "target"}).
    """
    key = _drop_path_key(learner, state)
    target, target_stats = _target_outputs(learner, state, views["global"])
    views = _online_views(learner.method, views)
    chunks = _split(views, learner.accumulate)
    chunk_keys = jax.random.split(key, learner.accumulate)

    def contrast(params, pooled):
        return _contrastive_objective(learner, state, params, pooled, target)

    def reconstruct(params, maps, pixels):
        """This chunk's share of the weighted reconstruction loss, and the loss itself."""
        if learner.repre is None:
            return 0.0, 0.0
        error = jnp.mean(learner.repre.loss(params["repre"], maps, pixels)) / learner.accumulate
        return learner.repre.weights(params["repre"]).reconstruct * error, error

    if learner.accumulate == 1:

        def objective(params):
            params = _stop_frozen(learner.method, params)
            pooled, maps = encode_views(learner, params, views, key=chunk_keys[0])
            contrastive, aux = contrast(params, pooled)
            weighted, error = reconstruct(params, maps, views["global"][:, 0])
            return contrastive + weighted, (error, pooled, aux)

        gradients, (error, pooled, aux) = jax.grad(objective, has_aux=True)(state.params)
    else:
        gradients, error, pooled, aux = _accumulate(
            learner, state.params, chunks, chunk_keys, contrast, reconstruct
        )
    metrics = _loss_metrics(learner, state.params, aux.pop("contrast"), error)
    metrics |= aux.pop("metrics") | {
        "features": pooled[:, 0],
        "feature_std": feature_std(pooled[:, 0]),
    }
    return gradients, aux | {
        "metrics": metrics,
        "target_batch_stats": target_stats,
        "target": target,
    }


def _accumulate(learner, params, chunks, keys, contrast, reconstruct):
    """The whole batch's gradient with the encoder's activations of one chunk in memory at a time.

    Gradient caching (arXiv 2101.06983): (1) pooled features of all chunks, without gradient;
    (2) heads and contrastive loss on the whole batch, giving the gradient of those features;
    (3) chunk by chunk, the encoder again, backwards from that gradient and the reconstruction.
    """
    method = learner.method

    def features(inputs):
        views, key = inputs
        return encode_views(learner, params, views, key=key)[0]

    pooled = _merge(jax.lax.map(features, (chunks, keys)))

    def of_heads(params, pooled):
        return contrast(_stop_frozen(method, params), pooled)

    (head_gradients, pooled_gradient), aux = jax.grad(of_heads, argnums=(0, 1), has_aux=True)(
        params, pooled
    )

    def of_chunk(params, views, key, pooled_gradient):
        params = _stop_frozen(method, params)
        pooled, maps = encode_views(learner, params, views, key=key)
        weighted, error = reconstruct(params, maps, views["global"][:, 0])
        surrogate = jnp.sum(pooled.astype(jnp.float32) * pooled_gradient.astype(jnp.float32))
        return surrogate + weighted, error

    def add_chunk(total, inputs):
        gradients, error = jax.grad(of_chunk, has_aux=True)(params, *inputs)
        return jax.tree.map(jnp.add, total, (gradients, jnp.float32(error))), None

    zero = (head_gradients, jnp.float32(0))
    pooled_gradients = _split(pooled_gradient, learner.accumulate)
    (gradients, error), _ = jax.lax.scan(add_chunk, zero, (chunks, keys, pooled_gradients))
    return gradients, error, pooled, aux


def encode_views(
    learner: Learner, params: Any, views: dict[str, jax.Array], *, key: jax.Array
) -> tuple[jax.Array, list[jax.Array]]:
    """The online encoder on all views, one pass per resolution.

    Views are folded into rows of their example, so that a batch split over devices stays split.

    Args:
      learner: static parts.
      params: online parameters.
      views: float32 in [0, 1].
      key: of drop path.

    Returns:
      (pooled [B, V, D], global views first; maps [B, gh, gw, D] of RePre's taps of view 1).
    """
    variables = {"params": params["encoder"]}
    pooled, maps = [], []
    for name in ("global", "local"):
        if name not in views:
            continue
        batch, count = views[name].shape[:2]
        encoded, group_maps = apply_with_taps(
            learner.encoder,
            variables,
            _rows(learner, views[name]),
            learner.repre.taps if learner.repre and name == "global" else (),
            train=True,
            rngs={"drop_path": jax.random.fold_in(key, len(pooled))},
        )
        pooled.append(encoded.pooled.reshape(batch, count, -1))
        maps += [m.reshape(batch, count, *m.shape[1:])[:, 0] for m in group_maps]
    return jnp.concatenate(pooled, axis=1), maps


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
      {"encoder_grad_norm/contrast", "encoder_grad_norm/reconstruct"}.
    """
    views = augment_views(batch, learner.method.views, learner.seed)
    target, _ = _target_outputs(learner, state, views["global"])
    views = _online_views(learner.method, views)
    key = _drop_path_key(learner, state)

    def losses(encoder):
        params = state.params | {"encoder": encoder}
        params = _stop_frozen(learner.method, params)
        pooled, maps = encode_views(learner, params, views, key=key)
        _, aux = _contrastive_objective(learner, state, params, pooled, target)
        pixels = views["global"][:, 0]
        error = jnp.mean(learner.repre.loss(params["repre"], maps, pixels))
        return jnp.stack([aux["contrast"], error])

    _, backward = jax.vjp(losses, state.params["encoder"])
    contrast, reconstruct = (optax.tree.norm(backward(row)[0]) for row in jnp.eye(2))
    return {
        "encoder_grad_norm/contrast": contrast,
        "encoder_grad_norm/reconstruct": reconstruct,
    }


def _target_outputs(learner, state, global_views):
    """The target network on its views: outputs [B, T, K] or None, and its new statistics."""
    if learner.method.target_heads is None:
        return None, {}
    params = state.target_params
    first, last = learner.method.target_views[0], learner.method.target_views[-1]
    global_views = global_views[:, first : last + 1]

    def pool(images):
        encoded = learner.encoder.apply({"params": params["encoder"]}, _rows(learner, images))
        return encoded.pooled.reshape(*images.shape[:2], -1)

    if learner.accumulate == 1:
        pooled = pool(global_views)
    else:
        pooled = _merge(jax.lax.map(pool, _split(global_views, learner.accumulate)))
    outputs, updated = learner.method.heads.apply(
        {"params": params["heads"], "batch_stats": state.target_batch_stats},
        pooled,
        method="target",
        mutable=["batch_stats"],
    )
    return jax.lax.stop_gradient(outputs), updated.get("batch_stats", {})


def _contrastive_objective(learner, state, params, pooled, target):
    """Weighted contrastive loss plus the regulariser of the weights, and what it leaves behind."""
    online, updated = learner.method.heads.apply(
        {"params": params["heads"], "batch_stats": state.batch_stats},
        pooled,
        train=True,
        mutable=["batch_stats"],
    )
    per_example, metrics = learner.method.loss(online, target, state.memory, state.step)
    contrast = jnp.mean(per_example)
    aux = {
        "contrast": contrast,
        "metrics": metrics,
        "batch_stats": updated.get("batch_stats", {}),
    }
    if learner.repre is None:
        return contrast, aux
    weights = learner.repre.weights(params["repre"])
    return weights.contrast * contrast + weights.regulariser, aux


def _loss_metrics(learner, params, contrast, error):
    if learner.repre is None:
        return {"loss": contrast, "loss/contrast": contrast}
    weights = learner.repre.weights(params["repre"])
    total = weights.contrast * contrast + weights.reconstruct * error + weights.regulariser
    return {
        "loss": total,
        "loss/contrast": contrast,
        "loss/reconstruct": error,
        "weight/contrast": weights.contrast,
        "weight/reconstruct": weights.reconstruct,
    }


def _drop_path_key(learner, state):
    stream = jax.random.fold_in(jax.random.key(learner.seed), _DROP_PATH_STREAM)
    return jax.random.fold_in(stream, state.step)


def _stop_frozen(method, params):
    """Parameters frozen for good are constants: no gradient is computed for them."""
    forever = [f for f in method.frozen if f.until_step is None]

    def stop(path, x):
        return jax.lax.stop_gradient(x) if any(f.covers(path) for f in forever) else x

    return map_with_path(stop, params)


def _online_views(method, views):
    """The views that pass through the online network; a slice, which copies nothing of both."""
    first, last = method.online_views[0], method.online_views[-1]
    return views | {"global": views["global"][:, first : last + 1]}


def _rows(learner, views):
    """[B, V, H, W, 3] in [0, 1] -> [B*V, H, W, 3] as the encoder takes them."""
    return learner.encoder_input(views.reshape(-1, *views.shape[2:]))


def _split(tree, chunks):
    """[B, ...] -> [chunks, B / chunks, ...]: chunk j holds rows j, j + chunks, ... .

    Strided, so that every device keeps its own rows in every chunk.
    """
    return jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, chunks, *x.shape[1:]), 1, 0), tree)


def _merge(x):
    """Undoes ``_split``."""
    return jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])
