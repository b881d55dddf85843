"""Steps whose loss or gradient is not finite: they are counted, and not taken."""

from typing import TypeVar

import jax
import jax.numpy as jnp
import optax

State = TypeVar("State")


def taken_where_finite(taken: State, state: State, loss: jax.Array, grad_norm: jax.Array) -> State:
    """``taken`` or, where loss or gradient is not finite, ``state``; the clock goes on and counts.

    Args:
      taken: the state after the step but for the counters.
      state: the one before it, with "step" and "nonfinite_in_a_row", int32.
      loss: of the step.
      grad_norm: of the step.
    """
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    return optax.tree.where(finite, taken, state).replace(
        step=state.step + 1,
        nonfinite_in_a_row=jnp.where(finite, 0, state.nonfinite_in_a_row + 1),
    )
