"""The mesh, and where things live on it: state everywhere, the batch split by rows.

The jitted step sees the global batch, so losses and BatchNorm need no axis names; more machines
only mean that ``jax.distributed`` was initialised before the mesh is made.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from repre_jax.errors import UserError


def make_mesh(devices: int = 0, *, key: str = "train.devices") -> Mesh:
    """A mesh of one axis "batch" over the first ``devices`` devices (0: all of them).

    ``key`` is what the config calls that number, for messages.

    Raises:
      UserError: there are fewer, or the number is negative.
    """
    available = jax.devices()
    if devices < 0:
        raise UserError(f"{key}={devices} must be 0, for all, or a number of devices.")
    if devices > len(available):
        raise UserError(f"{key}={devices}, but there are only {len(available)} devices.")
    chosen = available[:devices] if devices else available
    return Mesh(chosen, ("batch",))


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def by_row(mesh: Mesh) -> NamedSharding:
    """The leading axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec("batch"))


def abstract(init: Callable[..., Any], sharding: Sharding, *inputs: Any) -> Any:
    """Shapes of what ``init`` makes of ``inputs``, each with that sharding; nothing is computed."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        jax.eval_shape(init, *inputs),
    )
