"""Names of hardware that is not here: what is refused, and what the compilers are told."""

from types import SimpleNamespace

import jax
import pytest

from repre_jax.errors import UserError
from repre_jax.training import accelerators
from repre_jax.training.accelerators import open_topology


@pytest.fixture(autouse=True)
def cache_of_the_other_tests():
    """Stays on: what is compiled for other devices is the one thing that is not kept."""
    yield
    jax.config.update("jax_enable_compilation_cache", True)


@pytest.fixture
def described(monkeypatch):
    """What the compiler would have been told; it answers with one device."""
    told = {}

    def describe(**description):
        told.update(description)
        kind = "NVIDIA H200" if description["platform"] == "cuda" else "TPU v4"
        return SimpleNamespace(devices=[SimpleNamespace(device_kind=kind)])

    monkeypatch.setattr(accelerators.topologies, "get_topology_desc", describe)
    monkeypatch.setattr(accelerators, "Mesh", lambda devices, axes: devices)
    return told


@pytest.mark.parametrize(
    "name", ["v9:2x2", "v5e", "v5e:32", "v5e:4by8", "h100", "h100:0", "h100:2x2"]
)
def test_unknown(name):
    with pytest.raises(UserError, match=f"--target={name} must be a TPU .* or a GPU"):
        open_topology(name)


@pytest.mark.parametrize("name, extra", [("v5e:2x2", "tpu"), ("h100:1", "cuda")])
def test_without_its_compiler(name, extra, monkeypatch):
    def missing(**_):
        raise NotImplementedError("topology not implemented for it")

    monkeypatch.setattr(accelerators.topologies, "get_topology_desc", missing)
    with pytest.raises(UserError, match=rf"pip install 'repre_jax\[{extra}\]'\."):
        open_topology(name)


def test_refused_by_the_compiler(monkeypatch):
    def refuse(**_):
        raise RuntimeError("Topology layout is not divisible\nby 2x2x1")

    monkeypatch.setattr(accelerators.topologies, "get_topology_desc", refuse)
    with pytest.raises(UserError, match=r"v5e:3x3 is refused .* is not divisible by 2x2x1$"):
        open_topology("v5e:3x3")


def test_cores_of_a_chip_are_one_device(described):
    target = open_topology("v4:2x2x1")
    assert described["chip_config_name"] == "megacore"
    assert target.memory == int(30.75 * 2**30)
    assert target.accelerator.operations == 275e12
    assert target.compiler_options == {}


def test_gpus_by_the_machine(described):
    target = open_topology("h200:16")
    assert described["topology"] == "1x2x8"
    assert "memory_bandwidth: 4800000000000 " in described["target_config"]
    assert target.memory == int(0.75 * 141e9)
    with pytest.raises(UserError, match="machines of 8"):
        open_topology("h200:12")
