"""The mesh, and where things live on it: the batch split by rows, other arrays everywhere.

The jitted step sees the global batch, so losses and BatchNorm need no axis names; more machines
only mean that ``jax.distributed`` was initialised before the mesh is made.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from repre_jax.errors import UserError

# A tree of arrays or shapes -> the same tree of shardings.
Shardings = Callable[[Any], Any]


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
    if devices and devices < len(available) and jax.process_count() > 1:
        raise UserError(
            f"{key}={devices}, but all {len(available)} devices of a run of several processes take "
            "part: leave it at 0."
        )
    chosen = available[:devices] if devices else available
    return Mesh(chosen, ("batch",))


def platform() -> str:
    """Of the mesh that a program is traced for, else of this process: cpu, cuda, rocm, tpu, ..."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    found = device.platform if device else jax.default_backend()
    if found != "gpu":
        return found
    # JAX calls cards of AMD so, too. Cards that are not here (``accelerators``) are NVIDIA's.
    is_here = jax.default_backend() == "gpu"
    if is_here and "rocm" in jax.local_devices()[0].client.platform_version:
        return "rocm"
    return "cuda"


def jitted(function: Callable[..., Any], mesh: Mesh, **options: Any) -> jax.stages.Wrapped:
    """``jax.jit`` of a function that is traced for the devices of a mesh, which may be absent.

    What the compiler splits among devices needs no mesh; kernels of ``models.short_attention`` do,
    and ``platform`` and BatchNorm choose by it.

    Args:
      function: of global arrays.
      mesh: of the devices that share them.
      **options: of ``jax.jit``.
    """

    def traced(*arguments, **keywords):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*arguments, **keywords)

    named = function.func if isinstance(function, functools.partial) else function
    traced.__name__ = named.__name__  # by which profiles and counts of programs have it
    return jax.jit(traced, **options)


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def all_replicated(mesh: Mesh) -> Shardings:
    """``replicated`` for every array of a tree."""
    return lambda tree: jax.tree.map(lambda _: replicated(mesh), tree)


def by_row(mesh: Mesh) -> NamedSharding:
    """The leading axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec("batch"))


def rounded_up(rows: int, mesh: Mesh) -> int:
    """As many rows of a batch, or a few more, of which every device has the same share."""
    return -(-rows // mesh.size) * mesh.size


def abstract(init: Callable[..., Any], shardings: Shardings, *inputs: Any) -> Any:
    """Shapes of what ``init`` makes of ``inputs``, each with its sharding; nothing is computed."""
    return placed(jax.eval_shape(init, *inputs), shardings)


def placed(shapes: Any, shardings: Shardings) -> Any:
    """Shapes, each with its sharding."""
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        shardings(shapes),
    )


def whole(tree: Any, mesh: Mesh) -> Any:
    """Arrays with a copy on every device; the same ones where they have it already.

    Called by every process of a run.
    """
    if all(x.sharding.is_fully_replicated for x in jax.tree.leaves(tree)):
        return tree
    return jax.jit(lambda x: x, out_shardings=replicated(mesh))(tree)
