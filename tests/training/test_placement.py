"""A sharded state: which arrays are shared and how, and the run of a whole one all the same."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from steps import assert_agree, bits
from tiny import BATCH, random_pixels, random_state, tiny_config, tiny_learner

from repre_jax.config_files import read_config
from repre_jax.runs.checkpoints import Checkpoints
from repre_jax.sharding import abstract, by_row, make_mesh, whole
from repre_jax.training import placement as placement_module
from repre_jax.training import step as step_module
from repre_jax.training.compiled import jitted_step
from repre_jax.training.learner import build_learner
from repre_jax.training.memory import step_memory
from repre_jax.training.placement import Placement, by_largest_axis
from repre_jax.training.resolution import resolve

STEPS = 3
DEVICES = 8
# Every kind of state and of optimizer: target with centre, with queue, without memory; clipping.
CASES = {
    "dino": {},
    "moby": {},
    "moco_v2": {},
    "moco_v3": {"optimizer": {"name": "lars"}, "train": {"accumulate": 2}},
    "byol": {"optimizer": {"name": "lars"}},
    "simclr": {"optimizer": {"name": "lars_simclr"}},
    "simsiam": {"optimizer": {"name": "sgd", "clip_global": 0.1}},
    "mae": {"optimizer": {"clip_global": 0.1}, "train": {"accumulate": 2}},
    "lomar": {},
}


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((256, 1024), (None, "batch")),
        ((1024, 1024), ("batch",)),
        ((197, 384), (None, "batch")),
        ((3, 3, 64, 256), (None, None, None, "batch")),
        ((1001, 1003), ()),
        ((4096,), ()),
        ((2**14,), ("batch",)),
        ((), ()),
    ],
)
def test_the_largest_axis_that_the_devices_divide(shape, spec):
    sharding = by_largest_axis(make_mesh(DEVICES), shape)
    assert sharding.spec == PartitionSpec(*spec)
    assert sharding.is_fully_replicated == (not spec)


@pytest.mark.parametrize("name", [pytest.param("mae_vitl", marks=pytest.mark.slow), "dino_vits"])
def test_a_device_has_its_share_of_nearly_everything(name):
    config = read_config(name)
    learner = build_learner(config, resolve(config, images=10**6, devices=DEVICES))
    state = learner.shapes
    mesh = make_mesh(DEVICES)
    sizes, shares = (Placement(mesh, s).bytes_on_device(state) for s in (False, True))
    assert sum(sizes.values()) == sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    networks = 0
    for part in ("parameters", "optimizer", "target network"):
        assert shares[part] == pytest.approx(sizes[part] / DEVICES, rel=0.02), part
        networks += sizes[part] if part != "optimizer" else 0
    assert shares["other state"] == sizes["other state"]
    assert Placement(mesh, True).gathered_bytes(state) == pytest.approx(networks, rel=0.01)
    assert Placement(mesh, False).gathered_bytes(state) == 0
    if name == "dino_vits":
        prototypes = Placement(mesh, True).of(state).params["heads"]["projector"]["prototypes"]
        assert prototypes["direction"].spec == PartitionSpec("batch"), "of 65,536 rows"


def plain_views(batch, recipe, seed):
    """uint8 -> [0, 1]: augmentation has tests of its own."""
    return {name: batch[name] / 255.0 for name in ("global", "local") if name in batch}


def course(learner, shard_state, patch):
    """(state after STEPS steps as numpy, losses, the state as it lay, programs compiled)."""
    patch.setattr(placement_module, "SMALLEST_SHARED", 64)
    patch.setattr(step_module, "augment_views", plain_views)
    placement = Placement(make_mesh(DEVICES), shard_state)
    state = random_state(learner)
    state = jax.device_put(state, placement.of(state))
    step, losses = jitted_step(learner, placement), []
    for t in range(STEPS):
        batch = random_pixels(learner, seed=t)
        batch |= {"index": np.arange(BATCH, dtype=np.int32), "epoch": np.zeros(BATCH, np.int32)}
        state, metrics = step(state, jax.device_put(batch, by_row(placement.mesh)))
        losses.append(float(metrics["loss"]))
    return jax.tree.map(np.asarray, state), losses, state, step._cache_size()


def check(config, patch, tolerance):
    learner = tiny_learner(config, devices=DEVICES)
    expected, losses, _, _ = course(learner, False, patch)
    found, ours, lay, compiled = course(learner, True, patch)
    assert compiled == 1
    np.testing.assert_allclose(ours, losses, rtol=1e-6)
    assert_agree(found, expected, tolerance)
    shardings = Placement(make_mesh(DEVICES), True).of(lay)
    assert jax.tree.all(jax.tree.map(lambda x, s: x.sharding == s, lay, shardings))
    for network in filter(None, (lay.params, lay.target_params)):
        kernel = network["encoder"]["block_0"]["mlp"]["up"]["kernel"]
        assert kernel.addressable_shards[0].data.size == kernel.size // DEVICES
    return lay


@pytest.mark.slow
def test_a_sharded_state_goes_the_way_of_a_whole_one(monkeypatch, tmp_path):
    """And is saved as the same state, which any devices restore in either way."""
    config = tiny_config("moco_v3")
    config.model.depth = 1
    config.repre.enabled = False
    state = check(config, monkeypatch, tolerance=1e-6)
    checkpoints = Checkpoints(tmp_path, keep=1, best_metric=None)
    checkpoints.save(state)
    checkpoints.wait()
    for devices, shard_state in ((2, False), (4, True)):
        placement = Placement(make_mesh(devices), shard_state)
        restored, _ = checkpoints.restore_newest(abstract(lambda: state, placement.of))
        assert bits(jax.tree.map(np.asarray, restored)) == bits(jax.tree.map(np.asarray, state))
        up = restored.params["encoder"]["block_0"]["mlp"]["up"]["kernel"]
        assert up.sharding.is_fully_replicated != shard_state
    checkpoints.close()


@pytest.mark.slow
@pytest.mark.parametrize("method", CASES)
def test_of_every_method_and_optimizer(method, monkeypatch):
    config = tiny_config(method)
    for section, values in CASES[method].items():
        config[section].update(values)
    # Adam makes steps of rounding, the gradient of a bias before BatchNorm, which MoBY trains.
    check(config, monkeypatch, tolerance=1e-4 if method == "moby" else 1e-6)


def test_arrays_are_gathered_where_they_are_read_whole():
    mesh = make_mesh(DEVICES)
    x = jax.device_put(np.arange(64.0), by_row(mesh))
    (found,) = whole((x,), mesh)
    assert found.sharding.is_fully_replicated
    np.testing.assert_array_equal(found, x)
    assert whole((found,), mesh)[0] is found


def test_the_estimate_of_memory_knows_shares():
    config = tiny_config("moco_v3")
    config.model.depth = 1
    config.repre.enabled = False
    learner = tiny_learner(config, devices=DEVICES)
    mesh, state = make_mesh(DEVICES), learner.shapes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placement_module, "SMALLEST_SHARED", 64)
        whole_state, shares = (Placement(mesh, s) for s in (False, True))
        saved = step_memory(learner, 2, whole_state) - step_memory(learner, 2, shares)
        rest = sum(whole_state.bytes_on_device(state).values())
        rest -= sum(shares.bytes_on_device(state).values())
        assert saved == rest - shares.gathered_bytes(state) > 0
