"""About how much memory of a device a train step takes, counted before any compiler.

Counted are the train state, of a sharded one the share and what is gathered, a batch, and the
arrays of loss and gradients that are alive at once as JAX traced them, each from the operation that
makes it to the last one that reads it; of what is done in several ways, that of the platform at
hand. A compiler fuses operations, which saves arrays, and copies others. XLA for CPU allots 1.09 to
1.19 times as much for DINO and MoCo v3 on ViT-S (benchmarks/results/step_time_*_cpu.json).
"""

import functools
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core
from jax.sharding import AbstractMesh

from repre_jax.sharding import platform
from repre_jax.training.learner import Learner
from repre_jax.training.operations import inner_jaxprs, step_inputs
from repre_jax.training.placement import Placement
from repre_jax.training.step import loss_and_gradients

_LOOPS = ("scan", "while")


def step_memory(learner: Learner, rows: int, placement: Placement) -> int:
    """Bytes on a device at the moment of a step that needs most, about.

    Args:
      learner: static parts.
      rows: images of a step on this device, of all its micro-batches.
      placement: of the state.
    """
    state, views, keys = step_inputs(learner, rows)
    pixels = bytes_of(views) // 4  # the batch in bytes, beside the augmented one in float32
    # As ``compiled.jitted_step`` has one, of this device alone.
    with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("batch",))):
        alive = peak_bytes(functools.partial(loss_and_gradients, learner), state, views, keys)
    resting = sum(placement.bytes_on_device(state).values()) + placement.gathered_bytes(state)
    return resting + bytes_of(views) + pixels + alive


def device_memory(devices: int) -> int:
    """Bytes that each of so many devices has for a run; those of a CPU share its memory."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    here = min(devices, jax.local_device_count())
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // here


def peak_bytes(function: Callable[..., Any], *arguments: Any) -> int:
    """Most bytes alive at once of what ``function`` of arrays or shapes makes of them."""
    return _peak(jax.make_jaxpr(function)(*arguments).jaxpr)


def bytes_of(tree: Any) -> int:
    """Bytes of a pytree of arrays or shapes."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _peak(jaxpr: core.Jaxpr) -> int:
    absent = _absent(jaxpr)
    freed = _freed(jaxpr, absent)
    alive = most = 0
    for number, equation in enumerate(jaxpr.eqns):
        made = sum(bytes_of(v.aval) for v in equation.outvars if v not in absent)
        by_platform = equation.params.get("branches_platforms")
        inner = [_branch_here(equation)] if by_platform else inner_jaxprs(equation)
        if equation.primitive.name == "pallas_call":
            inner = []  # a kernel's arrays are on the chip
        within = max(map(_peak, inner), default=0)
        # What a function returns is what its last equations make; a loop collects it.
        looped = equation.primitive.name in _LOOPS
        most = max(most, alive + (made + within if looped else max(made, within)))
        alive += made - freed[number]
    return most


def _branch_here(equation: core.JaxprEqn) -> core.Jaxpr:
    """Of a choice by platform what is done on this one; the last branch is for all others."""
    here = platform()
    branches = equation.params["branches"]
    named = zip(equation.params["branches_platforms"], branches, strict=True)
    return next((b for names, b in named if names and here in names), branches[-1]).jaxpr


def _absent(jaxpr: core.Jaxpr) -> set[core.Var]:
    """What choices by platform return that only other platforms have."""
    found = set()
    for equation in jaxpr.eqns:
        if equation.params.get("branches_platforms"):
            branch = _branch_here(equation)
            fillers = _fillers(branch)
            pairs = zip(equation.outvars, branch.outvars, strict=True)
            found |= {outer for outer, inner in pairs if _is_variable(inner) and inner in fillers}
    return found


def _fillers(jaxpr: core.Jaxpr) -> set[core.Var]:
    """Arrays of one value that nobody computed: in the place of what other branches return."""
    made_by = {v: equation for equation in jaxpr.eqns for v in equation.outvars}

    def is_filler(equation):
        if equation.primitive.name != "broadcast_in_dim":
            return False
        value = equation.invars[0]
        source = made_by.get(value) if _is_variable(value) else None
        return not _is_variable(value) or (source is not None and not source.invars)

    return {equation.outvars[0] for equation in jaxpr.eqns if is_filler(equation)}


def _freed(jaxpr: core.Jaxpr, absent: set[core.Var]) -> list[int]:
    """Bytes that no equation after the first, second, ... one reads; those of the outputs never."""
    last_use = {}
    for number, equation in enumerate(jaxpr.eqns):
        last_use |= dict.fromkeys((*_variables(equation.invars), *equation.outvars), number)
    for kept in (*jaxpr.invars, *jaxpr.constvars, *_variables(jaxpr.outvars), *absent):
        last_use.pop(kept, None)
    freed = [0] * len(jaxpr.eqns)
    for variable, number in last_use.items():
        freed[number] += bytes_of(variable.aval)
    return freed


def _variables(atoms: list[Any]) -> Iterator[Any]:
    return filter(_is_variable, atoms)


def _is_variable(atom: Any) -> bool:
    return not isinstance(atom, core.Literal)
