"""Gradients with the encoder's activations of one micro-batch in memory at a time.

The gradient is the whole batch's in any case. Where the loss of an image depends on that image
alone, micro-batches pass through everything one after the other. Where it does not (negatives,
BatchNorm), gradients are cached (arXiv 2101.06983): what the heads take is computed for all
micro-batches without gradient; heads and loss on the whole batch give the gradient of that; then
the encoder runs again on each micro-batch, backwards from it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from repre_jax.methods.method import Keys
from repre_jax.training.learner import Learner


def gradients(
    learner: Learner,
    params: Any,
    views: dict[str, jax.Array],
    keys: Keys,
    parts: Callable[..., Any],
    framework: Callable[..., Any],
) -> tuple[Any, Any, Any]:
    """Gradient of the mean loss of the batch with respect to ``params``.

    Args:
      learner: static parts.
      params: online parameters.
      views: [B, ...] each.
      keys: of the batch.
      parts: (params, views, keys) -> (inputs of the heads, weighted loss of the branch, (its share
        of the error, feature [B, D])) of a micro-batch.
      framework: (params, inputs) -> (weighted loss, {"loss", "metrics", ...}) of a whole batch, or
        of a micro-batch of a separable method.

    Returns:
      (gradients, (error of the branch, feature [B, D]), what ``framework`` leaves behind).
    """
    count = learner.accumulate
    step_keys = jax.random.split(keys.step, count)
    if count == 1:
        chunk = views, Keys(keys.examples, step_keys[0])
        return _in_one_piece(params, chunk, parts, framework)
    chunks = split(views, count), Keys(split(keys.examples, count), step_keys)
    if learner.method.separable:
        return _one_by_one(params, chunks, count, parts, framework)
    return _cached(params, chunks, count, parts, framework)


def _in_one_piece(params, chunk, parts, framework):
    def objective(params):
        inputs, weighted, seen = parts(params, *chunk)
        loss, aux = framework(params, inputs)
        return loss + weighted, (seen, aux)

    found, (seen, aux) = jax.grad(objective, has_aux=True)(params)
    return found, seen, aux


def _one_by_one(params, chunks, count, parts, framework):
    def of_chunk(params, *chunk):
        inputs, weighted, (error, feature) = parts(params, *chunk)
        loss, aux = framework(params, inputs)
        return loss / count + weighted, (error, feature, aux)

    def add_chunk(total, chunk):
        found, (error, feature, aux) = jax.grad(of_chunk, has_aux=True)(params, *chunk)
        return jax.tree.map(jnp.add, total, found), (jnp.float32(error), feature, aux)

    zero = jax.tree.map(jnp.zeros_like, params)
    found, (errors, feature, aux) = jax.lax.scan(add_chunk, zero, chunks)
    # A separable method has no BatchNorm: everything that is left behind is a mean over images.
    aux = jax.tree.map(lambda x: jnp.mean(x, axis=0), aux)
    return found, (jnp.sum(errors), merge(feature)), aux


def _cached(params, chunks, count, parts, framework):
    def forward(chunk):
        inputs, _, (_, feature) = parts(params, *chunk)
        return inputs, feature

    inputs, feature = merge(jax.lax.map(forward, chunks))
    (head_gradients, inputs_gradient), aux = jax.grad(framework, argnums=(0, 1), has_aux=True)(
        params, inputs
    )

    def of_chunk(params, views, keys, inputs_gradient):
        inputs, weighted, (error, _) = parts(params, views, keys)
        products = jax.tree.map(
            lambda x, g: jnp.sum(x.astype(jnp.float32) * g.astype(jnp.float32)),
            inputs,
            inputs_gradient,
        )
        return sum(jax.tree.leaves(products)) + weighted, error

    def add_chunk(total, chunk):
        found, error = jax.grad(of_chunk, has_aux=True)(params, *chunk)
        return jax.tree.map(jnp.add, total, (found, jnp.float32(error))), None

    zero = (head_gradients, jnp.float32(0))
    (found, error), _ = jax.lax.scan(add_chunk, zero, (*chunks, split(inputs_gradient, count)))
    return found, (error, feature), aux


def in_chunks(function: Callable[..., Any], x: Any, count: int) -> Any:
    """``function`` of a batch, so many micro-batches one after the other."""
    return function(x) if count == 1 else merge(jax.lax.map(function, split(x, count)))


def split(tree: Any, count: int) -> Any:
    """[B, ...] -> [count, B / count, ...]: micro-batch j holds rows j, j + count, ... .

    Strided, so that every device keeps its own rows in every micro-batch.
    """
    return jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0), tree)


def merge(tree: Any) -> Any:
    """Undoes ``split``."""
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:]), tree)
