"""What a compiler says of the step of a config for devices that are not here.

Nothing runs: these are the compiler's own plan of memory, what its program reads and writes, and
the least time that the data sheet allows for that. No step is faster; every one is slower.
"""

import contextlib
import functools
import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from repre_jax.data.pixel_format import pixel_format
from repre_jax.errors import UserError
from repre_jax.rematerialisation import level_of, levels_above
from repre_jax.training.accelerators import Topology, open_topology
from repre_jax.training.compiled import abstract_batch, lowered_step, memory_bytes
from repre_jax.training.learner import build_learner
from repre_jax.training.memory import bytes_of
from repre_jax.training.operations import step_multiply_adds
from repre_jax.training.placement import Placement
from repre_jax.training.resolution import resolve
from repre_jax.training.traffic import Collective, read_traffic

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_REFUSED = re.compile(r"RESOURCE_EXHAUSTED.*temporaries \(([\d.]+)([KMGT])\)", re.DOTALL)


class Program(NamedTuple):
    """The compiled step, as one device sees it.

    Attributes:
      devices: that share the step.
      batch_size: images a step, over all of them.
      memory: {"parameters", "target network", "optimizer", "other state", "batch", "temporaries"}
        in bytes, alive together.
      available: bytes that a program may have.
      compile_seconds: with tracing.
      operations: two for each multiply-add.
      operation_seconds: that the data sheet allows for them; None where it has no figure for the
        compute dtype.
      bytes: read from and written to its memory; None for a program that the compiler refused,
        and so is what follows.
      byte_seconds: that the data sheet allows for them.
      collectives: what it exchanges with other devices.
    """

    devices: int
    batch_size: int
    memory: dict[str, int]
    available: int
    compile_seconds: float
    operations: float
    operation_seconds: float | None
    bytes: int | None = None
    byte_seconds: float | None = None
    collectives: tuple[Collective, ...] | None = None

    @property
    def wanted(self) -> int:
        """Bytes that it needs at once."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """Whether a device has that much memory."""
        return self.wanted <= self.available

    @property
    def seconds(self) -> float:
        """The least that a step can take."""
        return max(self.operation_seconds or 0.0, self.byte_seconds)

    @property
    def images_per_second(self) -> float:
        """The most that all devices together can do."""
        return self.batch_size / self.seconds


# What is changed, in words, and the config and topology that are changed so.
Other = tuple[str, ConfigDict, Topology]
# What is changed, and what compiles the program that is changed so.
Attempt = tuple[str, Callable[[], Program]]


def compile_for(config: ConfigDict, topology: Topology, *, images: int) -> Program:
    """Compiles the train step of a config for devices that are not here.

    Args:
      config: of a pre-training run.
      topology: of ``open_topology``.
      images: in the training set.

    Raises:
      UserError: numbers that do not fit together, such as a batch that the devices cannot share.
    """
    devices = topology.mesh.size
    resolution = resolve(config, images=images, devices=devices, on_cpu=False)
    learner, batch_size = build_learner(config, resolution), resolution.batch_size
    pixels = pixel_format(config.data, config.model.channels).dtype
    placement = Placement(topology.mesh, config.train.shard_state)
    memory = placement.bytes_on_device(learner.shapes)
    memory["batch"] = bytes_of(abstract_batch(learner, batch_size // devices, pixels=pixels))
    return compile_lowered(
        lambda: lowered_step(learner, batch_size, placement, pixels=pixels),
        topology,
        batch_size=batch_size,
        memory=memory,
        multiply_adds=step_multiply_adds(learner, batch_size),
        dtype=resolution.compute_dtype.name,
    )


def compile_lowered(
    lower: Callable[[], jax.stages.Lowered],
    topology: Topology,
    *,
    batch_size: int,
    memory: dict[str, int],
    multiply_adds: int,
    dtype: str,
) -> Program:
    """Compiles a step for devices that are not here.

    Args:
      lower: traces the step for the devices of ``topology``.
      topology: of ``open_topology``.
      batch_size: images a step, over all devices.
      memory: bytes on a device of what the step takes, by name.
      multiply_adds: of a step, over all devices.
      dtype: in which most of them are.
    """
    devices = topology.mesh.size
    operations = 2 * multiply_adds / devices
    start = time.perf_counter()
    lowered = lower()
    traffic = {}
    try:
        compiled = lowered.compile(compiler_options=topology.compiler_options)
    except jax.errors.JaxRuntimeError as error:
        memory = memory | {"temporaries": _refused_bytes(error)}
    else:
        plan = memory_bytes(compiled)
        memory = memory | {"temporaries": plan["peak"] - plan["argument"]}
        found = read_traffic(compiled.as_text())
        traffic = found._asdict() | {"byte_seconds": found.bytes / topology.accelerator.bandwidth}
    known = dtype == "bfloat16"
    return Program(
        devices=devices,
        batch_size=batch_size,
        memory=memory,
        available=topology.memory,
        compile_seconds=time.perf_counter() - start,
        operations=operations,
        operation_seconds=operations / topology.accelerator.operations if known else None,
        **traffic,
    )


def ways_that_fit(config: ConfigDict, topology: Topology, *, images: int) -> Iterator[str]:
    """Settings with which a pre-training that does not fit does; see ``fitting``."""

    def attempts(kind):
        for told, other_config, other_topology in kind(config, topology):
            yield told, functools.partial(compile_for, other_config, other_topology, images=images)

    kinds = (_sharded, _accumulated, _rematerialised, _more_devices)
    return fitting(attempts(kind) for kind in kinds)


def fitting(kinds: Iterable[Iterable[Attempt]]) -> Iterator[str]:
    """Of each kind of change the first whose program fits, in words; each is compiled."""
    for attempts in kinds:
        for told, compile_changed in attempts:
            with contextlib.suppress(UserError):  # a batch that cannot be shared so
                program = compile_changed()
                if program.fits:
                    yield f"{told}: {_memory_line(program)}; {_speed_line(program)}"
                    break


def lines(program: Program) -> list[str]:
    """What is told of a program, a line each."""
    memory = [f"{name:<18}{size / 2**30:>9.3f} GiB" for name, size in program.memory.items()]
    told = [
        f"memory            {_memory_line(program)}",
        *("  " + line for line in memory),
        f"compiled in       {program.compile_seconds:,.0f} s",
        f"operations        {program.operations / 1e12:,.3g} T a step",
    ]
    if program.bytes is None:
        return told
    told += [
        f"bytes             {program.bytes / 1e9:,.3g} GB a step",
        f"at most           {_speed_line(program)}",
    ]
    exchanged = [
        f"{c.kind} of {c.arrays} {c.dtype} arrays, {c.bytes / 2**20:,.2f} MiB"
        for c in program.collectives
    ]
    return told + [f"exchanged         {line}" for line in exchanged or ["nothing"]]


def _memory_line(program: Program) -> str:
    there, wanted = program.available / 2**30, program.wanted / 2**30
    verdict = "fits, with" if program.fits else "does not fit, by"
    return f"{wanted:.2f} of {there:.2f} GiB: {verdict} {abs(there - wanted):.2f} GiB"


def _speed_line(program: Program) -> str:
    operations = program.operation_seconds
    speed = f"{program.images_per_second:,.0f} images/s"
    by_bytes = f"{program.byte_seconds * 1e3:,.1f} ms"
    if operations is None:
        return (
            f"{speed} by its bytes, which take {by_bytes} a step by the data sheet; what its "
            "operations take is not known"
        )
    bound = "bytes" if program.byte_seconds >= operations else "operations"
    return (
        f"{speed}, bound by {bound}: a step takes {by_bytes} for its bytes and "
        f"{operations * 1e3:,.1f} ms for its operations, by the data sheet"
    )


def _refused_bytes(error: jax.errors.JaxRuntimeError) -> int:
    """Temporaries that a refused program wanted.

    Raises:
      UserError: it was refused for another reason, in the compiler's own words.
    """
    found = _REFUSED.search(str(error))
    if found is None:
        raise UserError(f"The compiler refuses the step: {error}") from error
    return int(float(found[1]) * _UNITS[found[2]])


def _sharded(config: ConfigDict, topology: Topology) -> Iterator[Other]:
    if topology.mesh.size > 1 and not config.train.shard_state:
        told = "train.shard_state=True"
        yield told, _changed(config, "train", "shard_state", True), topology


def _accumulated(config: ConfigDict, topology: Topology) -> Iterator[Other]:
    count = config.train.accumulate
    while (count := 2 * count) * topology.mesh.size <= config.train.batch_size:
        changed = _changed(config, "train", "accumulate", count)
        yield f"train.accumulate={count}", changed, topology


def _rematerialised(config: ConfigDict, topology: Topology) -> Iterator[Other]:
    for level in levels_above(level_of(config.model.remat)):
        yield f"model.remat={level}", _changed(config, "model", "remat", level), topology


def _more_devices(config: ConfigDict, topology: Topology) -> Iterator[Other]:
    for told, larger in larger_topologies(topology, config.train.batch_size):
        yield told, config, larger


def larger_topologies(topology: Topology, batch_size: int) -> Iterator[tuple[str, Topology]]:
    """Twice the devices, and twice as many again, as long as each has an image."""
    name = topology.name
    while 2 * topology.mesh.size <= batch_size:
        kind, _, shape = name.partition(":")
        axes = sorted(map(int, shape.split("x")))
        name = f"{kind}:{'x'.join(map(str, sorted([2 * axes[0], *axes[1:]])))}"
        try:
            topology = open_topology(name)
        except UserError:  # there are no larger ones
            return
        yield f"--target={name}", topology


def _changed(config: ConfigDict, section: str, key: str, value: object) -> ConfigDict:
    changed = config.copy_and_resolve_references()
    changed[section][key] = value
    return changed
