"""Fingerprints see every byte, name, shape and type, and no sharding."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from repre_jax.runs.fingerprints import (
    array_sha256s,
    joint_sha256,
    params_sha256,
    structure_sha256,
)


def test_params_sha256_depends_on_names_shapes_dtypes_and_bytes():
    base = {"a": np.arange(6, dtype=np.float32), "b": {"c": np.ones(2, np.int32)}}
    same = {"b": {"c": jnp.ones(2, jnp.int32)}, "a": jnp.arange(6, dtype=jnp.float32)}
    assert params_sha256(base) == params_sha256(same)
    mesh = Mesh(np.array(jax.devices()[:2]), ("batch",))
    spread = jax.device_put(base, NamedSharding(mesh, PartitionSpec("batch")))
    assert params_sha256(base) == params_sha256(spread)
    others = [
        {**base, "a": base["a"].reshape(2, 3)},
        {**base, "a": base["a"].view(np.int32)},
        {**base, "a": base["a"][::-1]},
        {"a2": base["a"], "b": base["b"]},
    ]
    assert len({params_sha256(tree) for tree in [base, *others]}) == 5


def test_structure_is_that_of_the_values_and_of_their_shapes():
    tree = {"a": np.zeros((2, 3), np.float32)}
    abstract = jax.eval_shape(lambda: {"a": jnp.ones((2, 3))})
    assert structure_sha256(tree) == structure_sha256(abstract)
    assert structure_sha256(tree) != structure_sha256({"a": np.zeros((3, 2), np.float32)})


def test_a_part_has_the_fingerprints_that_its_arrays_have_in_the_whole():
    tree = {"a": np.arange(6, dtype=np.float32), "b": {"c": np.ones(2), "d": np.zeros(2)}}
    whole, part = array_sha256s(tree), array_sha256s({"b": {"c": np.ones(2)}})
    assert part.items() <= whole.items()
    assert len(set(whole.values())) == 3
    assert joint_sha256(whole) == params_sha256(tree)
