"""Multiply-adds of a program, counted in what JAX traced of it, before any compiler.

Counted are the matrix products and convolutions, wherever they stand: in loops, in recomputed
blocks, in the backward pass. Products with the zeros around or between the entries of a map are
left out, as XLA leaves them out, and so is what only a CPU recomputes. Not counted are
normalisation, softmax, GELU, augmentation, optimizer and moving average, whose operations are few
and bound by memory.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.interpreters import partial_eval

from repre_jax.training.compiled import abstract_batch
from repre_jax.training.learner import Learner
from repre_jax.training.step import (
    branch_objective,
    encode,
    framework_objective,
    loss_and_gradients,
    stem_maps,
    target_outputs,
)


def step_multiply_adds(learner: Learner, batch_size: int) -> int:
    """Multiply-adds of loss and gradients of one step on a batch, over all devices.

    Twice as many are its floating-point operations.
    """
    return multiply_adds(
        functools.partial(loss_and_gradients, learner), *step_inputs(learner, batch_size)
    )


def forward_multiply_adds(learner: Learner, batch_size: int) -> int:
    """Multiply-adds of the losses alone, without gradients, of one step on a batch."""

    def forward(state, views, keys):
        target, _ = target_outputs(learner, state, views["global"])
        maps, _ = stem_maps(learner, state.params, state.batch_stats, views)
        encoded = encode(learner, state.params, views | {"stem": maps}, keys)
        loss, _ = framework_objective(learner, state, state.params, encoded.inputs, target)
        return loss + branch_objective(learner, state.params, encoded.maps, views, keys)[0]

    return multiply_adds(forward, *step_inputs(learner, batch_size))


def multiply_adds(function: Callable[..., Any], *arguments: Any) -> int:
    """Multiply-adds of ``function`` of arrays or shapes, nothing of which is computed."""
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    # Without what nobody reads, such as the gradient of an image.
    needed, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _of_jaxpr(needed)


def step_inputs(learner: Learner, batch_size: int) -> tuple[Any, Any, Any]:
    """Shapes of what ``loss_and_gradients`` takes for a batch: (state, views, keys)."""
    batch = abstract_batch(learner, batch_size)
    state = learner.shapes
    keys = jax.eval_shape(learner.keys, batch, state.step)
    views = {"index": batch["index"]}
    for name in {"global", "local"} & set(batch):
        views[name] = jax.ShapeDtypeStruct(batch[name].shape, jnp.float32)  # augmented
    return state, views, keys


def _of_jaxpr(jaxpr: core.Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            total += _of_product(equation)
        elif equation.primitive.name == "conv_general_dilated":
            total += _of_convolution(equation)
        elif equation.primitive.name == "cond":  # by platform: the last is that of accelerators
            total += _of_jaxpr(equation.params["branches"][-1].jaxpr)
        else:
            times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
            total += times * sum(map(_of_jaxpr, inner_jaxprs(equation)))
    return total


def inner_jaxprs(equation: core.JaxprEqn) -> list[core.Jaxpr]:
    """Programs inside an equation: of a loop, a branch, a recomputed block."""
    found = []
    is_jaxpr = lambda x: isinstance(x, core.Jaxpr | core.ClosedJaxpr)  # noqa: E731
    for value in jax.tree.leaves(equation.params, is_leaf=is_jaxpr):
        if is_jaxpr(value):
            found.append(value.jaxpr if isinstance(value, core.ClosedJaxpr) else value)
    return found


def _of_product(equation: core.JaxprEqn) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    inner = math.prod(equation.invars[0].aval.shape[d] for d in contracted)
    return math.prod(equation.outvars[0].aval.shape) * inner


def _of_convolution(equation: core.JaxprEqn) -> int:
    params = equation.params
    numbers = params["dimension_numbers"]
    image, kernel = (x.aval.shape for x in equation.invars)
    output = equation.outvars[0].aval.shape
    taps = 1
    for axis, (padding, stride, spread, dilation) in enumerate(
        zip(
            params["padding"],
            params["window_strides"],
            params["lhs_dilation"],
            params["rhs_dilation"],
            strict=True,
        )
    ):
        length = image[numbers.lhs_spec[2 + axis]]
        places = (
            out * stride + tap * dilation - padding[0]
            for out in range(output[numbers.out_spec[2 + axis]])
            for tap in range(kernel[numbers.rhs_spec[2 + axis]])
        )
        taps *= sum(0 <= p <= (length - 1) * spread and p % spread == 0 for p in places)
    features = output[numbers.out_spec[1]] * kernel[numbers.rhs_spec[1]]
    return output[numbers.out_spec[0]] * features * taps
