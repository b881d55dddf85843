"""What is told of a program for devices that are not here: they are this CPU's, in disguise."""

import jax
import jax.numpy as jnp
import pytest
from tiny import tiny_config, tiny_learner

from repre_jax.errors import UserError
from repre_jax.sharding import make_mesh
from repre_jax.training import ahead_of_time as ahead_of_time
from repre_jax.training.accelerators import Accelerator, Topology
from repre_jax.training.ahead_of_time import Program, compile_for, lines, ways_that_fit
from repre_jax.training.operations import step_multiply_adds
from repre_jax.training.traffic import Collective

IMAGES = 64


@pytest.fixture
def topology():
    return Topology("v5e:1x2", make_mesh(2), Accelerator(1e12, 1e9, 1e9), 2**30, {})


@pytest.fixture
def config():
    config = tiny_config("moco_v3")
    config.train.compute_dtype = "auto"
    return config


def program(**changes):
    sizes = {"parameters": 2**30, "optimizer": 2**31, "temporaries": 2**32}
    made = Program(2, 64, sizes, 8 * 2**30, 9.0, 3e12, 0.5, 4 * 10**9, 0.25, ())
    return made._replace(**changes)


@pytest.mark.slow
def test_the_step_is_compiled_for_the_target(config, topology):
    config.train.compute_dtype = "float32"
    compiled = compile_for(config, topology, images=IMAGES)
    assert compiled.memory["temporaries"] > 0
    assert compiled.operation_seconds is None, "the data sheet speaks of bfloat16"
    reduced = sum(c.bytes for c in compiled.collectives if c.kind == "all-reduce")
    assert reduced >= compiled.memory["parameters"], "gradients are summed over the devices"


def test_account(config, topology, monkeypatch):
    """Of another program in place of the step, which takes long to compile."""
    x = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    product = jax.jit(lambda x: jnp.sin(x @ x)).lower(x)
    monkeypatch.setattr(ahead_of_time, "lowered_step", lambda *_, **__: product)
    compiled = compile_for(config, topology, images=IMAGES)
    assert (compiled.devices, compiled.batch_size, compiled.available) == (2, 16, 2**30)
    learner = tiny_learner(config, devices=2)
    floats = sum(x.size for x in jax.tree.leaves(learner.shapes.params))
    assert compiled.memory["parameters"] == 4 * floats
    assert 1.5 < compiled.memory["optimizer"] / compiled.memory["parameters"] < 2  # part is frozen
    assert compiled.memory["batch"] == 8 * (2 * 16 * 16 * 3 + 3 * 4)  # the half of it
    assert compiled.memory["temporaries"] >= 4 * 64**2
    assert compiled.fits
    assert compiled.operations == step_multiply_adds(learner, 16)  # two each, shared by two
    assert compiled.operation_seconds == compiled.operations / 1e12
    assert compiled.byte_seconds == compiled.bytes / 1e9
    assert compiled.collectives == ()


def test_the_dtype_is_the_targets(config, topology, monkeypatch):
    """Not that of the CPU which compiles."""
    seen = {}

    def stop(learner, *_, **__):
        seen["dtype"] = learner.encoder.dtype.name
        raise InterruptedError

    monkeypatch.setattr(ahead_of_time, "lowered_step", stop)
    with pytest.raises(InterruptedError):
        compile_for(config, topology, images=IMAGES)
    assert seen == {"dtype": "bfloat16"}


def test_a_batch_that_the_devices_cannot_share(config, topology):
    config.train.batch_size = 15
    with pytest.raises(UserError, match=r"train.batch_size=15 cannot be split over 2 device\(s\)"):
        compile_for(config, topology, images=IMAGES)


def test_a_refusal_names_what_was_wanted(config, topology, monkeypatch):
    words = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (15.93G) exceeds available HBM (15.75G)."
    )

    class Refused:
        def compile(self, compiler_options):
            raise jax.errors.JaxRuntimeError(words)

    monkeypatch.setattr(ahead_of_time, "lowered_step", lambda *_, **__: Refused())
    refused = compile_for(config, topology, images=IMAGES)
    assert refused.memory["temporaries"] == int(15.93 * 2**30)
    assert not refused.fits and refused.bytes is None
    assert lines(refused)[0].endswith("15.93 of 1.00 GiB: does not fit, by 14.93 GiB")
    words = "INTERNAL: Mosaic failed to compile TPU kernel"
    with pytest.raises(UserError, match="The compiler refuses the step: INTERNAL: Mosaic"):
        compile_for(config, topology, images=IMAGES)


def test_lines():
    told = lines(program(collectives=(Collective("all-reduce", "bf16", 3, 2**20),)))
    assert told[0].endswith("7.00 of 8.00 GiB: fits, with 1.00 GiB")
    assert told[-2].endswith(
        "128 images/s, bound by operations: a step takes 250.0 ms for its bytes and 500.0 ms for "
        "its operations, by the data sheet"
    )
    assert told[-1].endswith("all-reduce of 3 bf16 arrays, 1.00 MiB")
    assert lines(program())[-1].endswith("nothing")
    unknown = lines(program(operation_seconds=None))[-2]
    assert "256 images/s" in unknown and "what its operations take is not known" in unknown


def test_ways_that_fit_are_tried(config, topology, monkeypatch):
    tried = []

    def compiled(config, topology, *, images):
        tried.append(
            (config.train.shard_state, config.train.accumulate, config.model.remat, topology.name)
        )
        if config.train.shard_state:
            return program(available=2**32)
        enough = config.train.accumulate == 4 or topology.name == "v5e:2x2"
        return program(available=2**33 if enough else 2**32)

    monkeypatch.setattr(ahead_of_time, "compile_for", compiled)
    monkeypatch.setattr(ahead_of_time, "open_topology", lambda name: topology._replace(name=name))
    accumulated, doubled = ways_that_fit(config, topology, images=IMAGES)
    assert accumulated.startswith("train.accumulate=4: 7.00 of 8.00 GiB: fits")
    assert doubled.startswith("--target=v5e:2x2: ")
    assert tried == [
        (True, 1, "none", "v5e:1x2"),
        (False, 2, "none", "v5e:1x2"),
        (False, 4, "none", "v5e:1x2"),
        (False, 1, "attention", "v5e:1x2"),
        (False, 1, "block", "v5e:1x2"),
        (False, 1, "none", "v5e:2x2"),
    ]
    assert config.train.accumulate == 1 and config.model.remat == "none"
