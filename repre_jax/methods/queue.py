"""A first-in-first-out memory of normalised keys, as MoCo v2 and MoBY keep."""

import jax
import jax.numpy as jnp

from repre_jax.losses.normalisation import l2_normalise


def random_keys(key: jax.Array, size: int, width: int) -> jax.Array:
    """[size, width] normal numbers, every row of unit length: what official queues start as."""
    return l2_normalise(jax.random.normal(key, (size, width)))


def enqueue(queue: jax.Array, keys: jax.Array, pointer: jax.Array) -> jax.Array:
    """Writes the batch's keys, normalised, over the oldest rows, from row ``pointer`` on.

    Args:
      queue: [Q, D].
      keys: [B, D] of the global batch. The official codes want Q to be a multiple of B; here the
        rows wrap around, and of a batch larger than the queue the last Q keys stay.
      pointer: int32 (), the oldest row.
    """
    size = queue.shape[0]
    skipped = max(keys.shape[0] - size, 0)
    rows = (pointer + jnp.arange(skipped, keys.shape[0])) % size
    return queue.at[rows].set(l2_normalise(keys[skipped:]), unique_indices=True)


def advance(pointer: jax.Array, batch: int, size: int) -> jax.Array:
    """The oldest row after ``batch`` keys have been written."""
    return (pointer + batch) % size


def remarks(size: int, seen: int) -> list[str]:
    """A sentence where a run of ``seen`` images does not fill a queue of this ``size``."""
    if seen >= size:
        return []
    return [
        f"The queue holds {size:,} keys and the run sees {seen:,} images: random keys of its start "
        "stay among the negatives to the end, so lower method.queue or train longer."
    ]
