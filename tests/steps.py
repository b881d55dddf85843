"""What a step makes of a batch, on any number of devices, and how two of them are compared."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from tiny import BATCH, paths, random_state, random_views

from repre_jax.sharding import by_row, make_mesh, replicated
from repre_jax.training.optimizers import map_with_path
from repre_jax.training.step import loss_and_gradients


def plain_views(batch, recipe, seed):
    """In place of augmentation: uint8 -> [0, 1]; rows with a negative index become NaN."""
    spoilt = jnp.where(batch["index"] < 0, jnp.nan, 0.0).reshape(-1, 1, 1, 1, 1)
    return {name: batch[name] / 255.0 + spoilt for name in ("global", "local") if name in batch}


def outcome(learner, state, views):
    """All that a step derives from a batch: gradients, metrics, statistics, memory."""
    rows = {"index": views["index"], "epoch": jnp.zeros_like(views["index"])}
    keys = learner.keys(rows, state.step)
    gradients, outputs = loss_and_gradients(learner, state, views, keys)
    target, memory = outputs.pop("target"), state.memory
    if learner.method.memory:
        memory = learner.method.memory.update(memory, target)
    return {"gradients": gradients, "memory": memory, **outputs}


def measure(learner, *, devices=1):
    """``outcome`` of a batch split over so many devices, as numpy arrays."""
    mesh = make_mesh(devices)
    state = jax.device_put(random_state(learner), replicated(mesh))
    views = jax.device_put(random_views(learner), by_row(mesh))
    assert len(views["global"].addressable_shards) == devices
    assert views["global"].addressable_shards[0].data.shape[0] == BATCH // devices
    function = jax.jit(functools.partial(outcome, learner))
    return jax.tree.map(np.asarray, function(state, views))


def assert_agree(ours, theirs, tolerance=2e-5):
    """Within ``tolerance``, of each tensor's largest number where that is above 1."""
    wrong = {}

    def compare(path, a, b):
        difference = np.abs(a - b).max()
        if not difference <= tolerance * max(1.0, np.abs(b).max()):  # NaN fails, too
            wrong[path] = (difference, np.abs(b).max())

    jax.tree.map(lambda path, a, b: compare(path, a, b), path_tree(theirs), ours, theirs)
    assert not wrong, wrong


def path_tree(tree):
    """The same tree with every leaf's path in its place."""
    return map_with_path(lambda path, _: path, tree)


def bits(tree):
    """{path: bytes} of every leaf."""
    pairs = zip(paths(tree), jax.tree.leaves(tree), strict=True)
    return {path: leaf.tobytes() for path, leaf in pairs}
