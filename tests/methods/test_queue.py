"""The queue: first in, first out, keys of unit length."""

import jax.numpy as jnp
import numpy as np
import pytest

from repre_jax.methods.queue import advance, enqueue


def keys_of(step, batch, width=4):
    """Directions that tell step and row apart."""
    angle = 0.1 * (step * batch + np.arange(batch))
    return np.stack([np.cos(angle), np.sin(angle)] + [0 * angle] * (width - 2), axis=1) * 7


@pytest.mark.parametrize(("size", "batch"), [(12, 4), (10, 4), (3, 5)])
def test_holds_the_newest_keys_and_replaces_the_oldest(size, batch):
    """Also where the batch does not divide the queue, or is larger than it."""
    queue, pointer = jnp.zeros((size, 4)), jnp.int32(0)
    everything = np.zeros((0, 4))
    for step in range(5):
        keys = keys_of(step, batch)
        queue = enqueue(queue, jnp.asarray(keys, jnp.float32), pointer)
        pointer = advance(pointer, batch, size)
        everything = np.concatenate([everything, keys / 7])
        expected = everything[-size:]
        expected = np.concatenate([expected, np.zeros((size - len(expected), 4))])
        assert int(pointer) == (step + 1) * batch % size
        np.testing.assert_allclose(
            np.asarray(queue)[np.lexsort(np.asarray(queue).T)],
            expected[np.lexsort(expected.astype(np.float32).T)],
            atol=1e-6,
        )
    # The oldest row is where the pointer is.
    np.testing.assert_allclose(queue[int(pointer)], everything[-size], atol=1e-6)
