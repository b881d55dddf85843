"""Gradients with the encoder's activations of one micro-batch in memory at a time.

The gradient is the whole batch's in any case. Where the loss of an image depends on that image
alone, micro-batches pass through everything one after the other. Where it does not (negatives,
BatchNorm), gradients are cached (arXiv 2101.06983): what the heads take is computed for all
micro-batches without gradient; heads and loss on the whole batch give the gradient of that; then
the encoder runs again on each micro-batch, backwards from it. A convolutional stem, which has
BatchNorm, sees the whole batch before and after all that.
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
    stem: Callable[..., Any],
    parts: Callable[..., Any],
    framework: Callable[..., Any],
) -> tuple[Any, Any, Any, Any]:
    """Gradient of the mean loss of the batch with respect to ``params``.

    Args:
      learner: static parts.
      params: online parameters.
      views: [B, ...] each.
      keys: of the batch.
      stem: params -> (``views["stem"]`` of the whole batch, arrays [B, ...] or none, what else it
        leaves behind).
      parts: (params, views, keys) -> (inputs of the heads, weighted loss of the branch, (its share
        of the error, feature [B, D])) of a micro-batch.
      framework: (params, inputs) -> (weighted loss, {"loss", "metrics", ...}) of a whole batch, or
        of a micro-batch of a separable method.

    Returns:
      (gradients, (error of the branch, feature [B, D]), what ``framework`` and ``stem`` leave
      behind).
    """
    count = learner.accumulate
    maps, stem_backward, stem_left = jax.vjp(stem, params, has_aux=True)
    step_keys = jax.random.split(keys.step, count)
    if count == 1:
        chunk = maps, views, Keys(keys.examples, step_keys[0])
        found, maps_gradient, seen, aux = _in_one_piece(params, chunk, parts, framework)
    else:
        chunks = split((maps, views), count)
        chunks = (*chunks, Keys(split(keys.examples, count), step_keys))
        way = _one_by_one if learner.method.separable else _cached
        found, maps_gradient, seen, aux = way(params, chunks, count, parts, framework)
    if maps:
        found = jax.tree.map(jnp.add, found, stem_backward(maps_gradient)[0])
    return found, seen, aux, stem_left


def _in_one_piece(params, chunk, parts, framework):
    maps, views, keys = chunk

    def objective(params, maps):
        inputs, weighted, seen = parts(params, views | {"stem": maps}, keys)
        loss, aux = framework(params, inputs)
        return loss + weighted, (seen, aux)

    found, (seen, aux) = jax.grad(objective, argnums=(0, 1), has_aux=True)(params, maps)
    return *found, seen, aux


def _one_by_one(params, chunks, count, parts, framework):
    def of_chunk(params, maps, views, keys):
        inputs, weighted, (error, feature) = parts(params, views | {"stem": maps}, keys)
        loss, aux = framework(params, inputs)
        return loss / count + weighted, (error, feature, aux)

    def add_chunk(total, chunk):
        gradient = jax.grad(of_chunk, argnums=(0, 1), has_aux=True)
        (found, of_maps), (error, feature, aux) = gradient(params, *chunk)
        return jax.tree.map(jnp.add, total, found), (of_maps, jnp.float32(error), feature, aux)

    zero = jax.tree.map(jnp.zeros_like, params)
    found, (of_maps, errors, feature, aux) = jax.lax.scan(add_chunk, zero, chunks)
    # A separable method has no BatchNorm in its heads: what is left behind are means over images.
    aux = jax.tree.map(lambda x: jnp.mean(x, axis=0), aux)
    return found, merge(of_maps), (jnp.sum(errors), merge(feature)), aux


def _cached(params, chunks, count, parts, framework):
    def forward(chunk):
        maps, views, keys = chunk
        inputs, _, (_, feature) = parts(params, views | {"stem": maps}, keys)
        return inputs, feature

    inputs, feature = merge(jax.lax.map(forward, chunks))
    (head_gradients, inputs_gradient), aux = jax.grad(framework, argnums=(0, 1), has_aux=True)(
        params, inputs
    )

    def of_chunk(params, maps, views, keys, inputs_gradient):
        inputs, weighted, (error, _) = parts(params, views | {"stem": maps}, keys)
        products = jax.tree.map(
            lambda x, g: jnp.sum(x.astype(jnp.float32) * g.astype(jnp.float32)),
            inputs,
            inputs_gradient,
        )
        return sum(jax.tree.leaves(products)) + weighted, error

    def add_chunk(total, chunk):
        gradient = jax.grad(of_chunk, argnums=(0, 1), has_aux=True)
        (found, of_maps), error = gradient(params, *chunk)
        return jax.tree.map(jnp.add, total, (found, jnp.float32(error))), of_maps

    zero = (head_gradients, jnp.float32(0))
    chunks = (*chunks, split(inputs_gradient, count))
    (found, error), of_maps = jax.lax.scan(add_chunk, zero, chunks)
    return found, merge(of_maps), (error, feature), aux


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
