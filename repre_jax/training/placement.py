"""Where the state of a run lies: whole on every device, or a share of it on each.

A sharded state (ZeRO, arXiv 1910.02054; FSDP, arXiv 2304.11277) is a matter of ``NamedSharding``
alone. The step gathers the parameters that it computes with, computes what it computes without
sharding, and hands every device the share of the gradients whose parameters it updates; XLA puts
the exchanges in.
"""

import dataclasses
import math
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from repre_jax.sharding import replicated

# Of a state, what is sharded, and its name; statistics, memory and counters stay whole.
PARTS = {
    "params": "parameters",
    "target_params": "target network",
    "opt_state": "optimizer",
}
# Elements from which on an array is shared: 64 KiB of float32, what one link of an accelerator
# carries in about a microsecond, less than an exchange takes to begin. What stays whole of ViT-L
# in MAE, norms and biases, is 0.1 % of its parameters.
SMALLEST_SHARED = 2**14

Tree = TypeVar("Tree")


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where arrays of a train state lie on the devices of a mesh.

    Attributes:
      mesh: the devices, of one axis.
      shard_state: whether each has a share of ``PARTS`` only.
    """

    mesh: Mesh
    shard_state: bool = False

    def of(self, state: Tree) -> Tree:
        """A sharding for every array, or shape, of a state with the fields of ``PARTS``."""
        whole = replicated(self.mesh)
        shardings = jax.tree.map(lambda _: whole, state)
        if not self.shard_state:
            return shardings
        return shardings.replace(**{name: self._shared(getattr(state, name)) for name in PARTS})

    def bytes_on_device(self, state: Any) -> dict[str, int]:
        """Bytes of a state, or of its shapes, on each device.

        Returns:
          {"parameters", "target network", "optimizer", "other state"}.
        """
        shardings = self.of(state)
        sizes = {
            told: _bytes(getattr(state, name), getattr(shardings, name))
            for name, told in PARTS.items()
        }
        return sizes | {"other state": _bytes(state, shardings) - sum(sizes.values())}

    def gathered_bytes(self, state: Any) -> int:
        """Bytes that ``gathered`` has on each device beside the shares."""
        shared = [
            x
            for x in jax.tree.leaves((state.params, state.target_params))
            if self.shard_state and not by_largest_axis(self.mesh, x.shape).is_fully_replicated
        ]
        return _bytes(shared, [replicated(self.mesh)] * len(shared))

    def gathered(self, state: Tree) -> Tree:
        """In a step: the state whose parameters, the target's too, are whole on every device."""
        if not self.shard_state:
            return state
        params = (state.params, state.target_params)
        params, target_params = jax.lax.with_sharding_constraint(params, replicated(self.mesh))
        return state.replace(params=params, target_params=target_params)

    def shared(self, gradients: Tree) -> Tree:
        """In a step: gradients as their parameters lie."""
        if not self.shard_state:
            return gradients
        return jax.lax.with_sharding_constraint(gradients, self._shared(gradients))

    def _shared(self, tree: Any) -> Any:
        return jax.tree.map(lambda x: by_largest_axis(self.mesh, x.shape), tree)


def by_largest_axis(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """Shares along the largest axis that the devices divide, the first of equals.

    Without such an axis, or with fewer than ``SMALLEST_SHARED`` elements, a copy on every device.
    """
    (name,), devices = mesh.axis_names, mesh.size
    axes = [axis for axis, length in enumerate(shape) if length and length % devices == 0]
    if not axes or math.prod(shape) < SMALLEST_SHARED:
        return replicated(mesh)
    axis = max(axes, key=lambda axis: shape[axis])
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, name))


def _bytes(tree: Any, shardings: Any) -> int:
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True)
    return sum(math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize for x, s in pairs)
