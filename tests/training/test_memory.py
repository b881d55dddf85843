"""Arrays alive at once in a traced program: closed forms, what saves memory, XLA's own account."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl
from tiny import BATCH, tiny_config, tiny_learner
from whole_runs import ROOT

from benchmarks.step_time import variants
from repre_jax.config_files import read_config
from repre_jax.sharding import make_mesh
from repre_jax.training import memory
from repre_jax.training.learner import build_learner
from repre_jax.training.memory import device_memory, peak_bytes, step_memory
from repre_jax.training.placement import Placement
from repre_jax.training.resolution import resolve

X = jax.ShapeDtypeStruct((256,), jnp.float32)
KIB = 1024
ALONE = Placement(make_mesh(1))


def test_an_array_lives_until_it_is_read_for_the_last_time():
    assert peak_bytes(lambda x: jnp.sin(jnp.sin(jnp.sin(x))), X) == 2 * KIB
    assert peak_bytes(lambda x: (jnp.sin(x), jnp.cos(x)), X) == 2 * KIB

    def kept(x):
        first = jnp.sin(x)
        return jnp.cos(jnp.cos(first)) + first

    assert peak_bytes(kept, X) == 3 * KIB
    assert peak_bytes(lambda x: x, X) == 0


def test_a_function_within_and_a_loop():
    inner = jax.jit(lambda x: jnp.sin(jnp.sin(x)))
    assert peak_bytes(lambda x: jnp.cos(inner(x)), X) == 2 * KIB

    def loop(x):
        return jax.lax.scan(lambda carry, _: (jnp.sin(jnp.sin(carry)), carry), x, None, length=8)

    # The carry, eight of what each round leaves, and two within a round.
    assert peak_bytes(loop, X) == (1 + 8 + 2) * KIB


def test_what_a_kernel_has_on_the_chip_does_not_count():
    def kernel(x, out):
        out[...] = jnp.cos(jnp.sin(x[...])) + jnp.sin(x[...])

    called = pl.pallas_call(kernel, out_shape=X, interpret=True)
    assert peak_bytes(called, X) == KIB


def test_what_saves_memory_counts():
    config = tiny_config("simclr")
    config.model.depth = 4
    config.repre.enabled = False
    learner = tiny_learner(config)
    whole = step_memory(learner, BATCH, ALONE)
    assert step_memory(learner, BATCH // 8, ALONE) < whole / 2, "more devices"
    assert step_memory(dataclasses.replace(learner, accumulate=4), BATCH, ALONE) < 0.8 * whole
    attention, block = (
        step_memory(
            dataclasses.replace(learner, encoder=learner.encoder.clone(remat=level)), BATCH, ALONE
        )
        for level in ("attention", "block")
    )
    assert block < 0.8 * whole and block < attention < 0.9 * whole


def test_devices_of_a_cpu_share_its_memory(monkeypatch):
    assert device_memory(8) == device_memory(1) // 8

    class GPU:
        def memory_stats(self):
            return {"bytes_limit": 60 * 2**30}

    monkeypatch.setattr(memory.jax, "local_devices", lambda: [GPU()])
    assert device_memory(8) == 60 * 2**30


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dino_vits", "moco_v3_vits"])
def test_it_is_near_what_xla_allots(name):
    """Of ViT-S, without and with RePre: benchmarks/results/step_time_<name>_cpu.json."""
    path = ROOT / "benchmarks" / "results" / f"step_time_{name}_cpu.json"
    measured = json.loads(path.read_text())
    config = read_config(name)
    config.train.update({"batch_size": measured["batch_size"], "compute_dtype": "float32"})
    found = variants(config, ["literal"])
    for variant, row in zip(found.values(), measured["variants"], strict=False):
        learner = build_learner(variant, resolve(variant, images=4096, devices=1))
        allotted = row["memory_bytes_per_device"]["peak"]
        assert 0.83 < step_memory(learner, measured["batch_size"], ALONE) / allotted < 1
