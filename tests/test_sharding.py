"""Programs for a mesh."""

import functools

import jax
import jax.numpy as jnp

from repre_jax.sharding import by_row, jitted, make_mesh, platform, rounded_up


def test_what_is_jitted_for_a_mesh_is_traced_for_its_devices():
    seen = []

    def doubled(x):
        seen.append((jax.sharding.get_abstract_mesh().size, platform()))
        return 2 * x

    mesh = make_mesh(4)
    program = jitted(functools.partial(doubled), mesh)
    found = program(jax.device_put(jnp.arange(8), by_row(mesh)))
    assert found.tolist() == list(range(0, 16, 2)) and seen == [(4, "cpu")]
    assert "jit_doubled" in program.lower(jnp.arange(8)).as_text()


def test_every_device_has_the_same_share():
    assert [rounded_up(rows, make_mesh(4)) for rows in (1, 4, 5, 8)] == [4, 4, 8, 8]
    assert rounded_up(7, make_mesh(1)) == 7
