"""Programs for a mesh."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

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


def mesh_of_a_gpu():
    device = jax.sharding.AbstractDevice(device_kind="any", num_cores=None, platform="gpu")
    return jax.sharding.AbstractMesh((1,), ("batch",), abstract_device=device)


@pytest.mark.parametrize("version", ["rocm 60300", "cuda 13000"])
def test_whose_card_a_gpu_is(version, monkeypatch):
    """JAX calls those of AMD and of NVIDIA the same."""
    card = SimpleNamespace(client=SimpleNamespace(platform_version=f"PJRT C API\n{version}"))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [card])
    expected = version.split()[0]
    assert platform() == expected
    with jax.sharding.use_abstract_mesh(mesh_of_a_gpu()):
        assert platform() == expected


def test_cards_that_are_not_here_are_nvidias():
    with jax.sharding.use_abstract_mesh(mesh_of_a_gpu()):
        assert platform() == "cuda"
