"""Bytes that a compiled program moves, and what its devices say to each other, read off its text.

The text is XLA's after all its passes (``jax.stages.Compiled.as_text``): one instruction a line,
``%name = type opcode(%operand, ...), attributes``, in computations that call each other. A fused
instruction reads its operands and writes its output, whatever it does in between.
"""

import collections
import functools
import math
import re
from collections.abc import Callable
from typing import NamedTuple

_ARRAY = re.compile(r"\b(pred|token|[a-z]+\d+[a-z0-9]*)\[([\d,]*)\](\{[^}]*\})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_NAME = re.compile(r"%([\w.\-]+)")
_TRIPS = re.compile(r'known_trip_count\\?":\{\\?"n\\?":\\?"(\d+)')
# They name what is there already.
_FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota")
_COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)


class Array(NamedTuple):
    """An array of a type; ``on_chip`` for one that does not lie in the device's main memory."""

    dtype: str
    bytes: int
    on_chip: bool


class Instruction(NamedTuple):
    """A line of a program."""

    name: str
    arrays: tuple[Array, ...]  # of its output
    opcode: str
    operands: tuple[str, ...]
    attributes: str


class Collective(NamedTuple):
    """Exchanges of one kind and dtype in a step: how many arrays, and bytes of their results."""

    kind: str
    dtype: str
    arrays: int
    bytes: int


class Traffic(NamedTuple):
    """Of one device in one run of a program.

    Attributes:
      bytes: read from and written to its main memory. Too many where a loop changes a part of an
        array in place, for the whole array is counted.
      collectives: what it exchanges with other devices, the most bytes first.
    """

    bytes: int
    collectives: tuple[Collective, ...]


def read_traffic(text: str) -> Traffic:
    """What a compiled program moves, by its text."""
    computations, entry = _computations(text)
    exchanged: dict[tuple[str, str], list[int]] = collections.defaultdict(lambda: [0, 0])

    @functools.cache
    def bytes_of(name: str) -> int:
        of_name = {i.name: i for i in computations[name]}
        return sum(_moved(i, of_name, bytes_of) for i in computations[name])

    def exchange(name: str, times: int) -> None:
        for instruction in computations.get(name, ()):
            kind = instruction.opcode.removesuffix("-start")
            if kind in _COLLECTIVES:
                for array in _results(instruction):
                    found = exchanged[kind, array.dtype]
                    found[0] += times
                    found[1] += times * array.bytes
            for called in (*_called(instruction), *_fused(instruction)):
                exchange(called, times * _trips(instruction))

    exchange(entry, 1)
    found = [Collective(*key, *counts) for key, counts in exchanged.items()]
    return Traffic(bytes_of(entry), tuple(sorted(found, key=lambda c: -c.bytes)))


def _moved(
    instruction: Instruction, of_name: dict[str, Instruction], bytes_of: Callable[[str], int]
) -> int:
    """Bytes that an instruction reads and writes."""
    opcode = instruction.opcode
    if opcode in _FREE:
        return 0
    if opcode == "while":
        return _trips(instruction) * sum(map(bytes_of, _called(instruction)))
    if opcode == "call":
        return sum(map(bytes_of, _called(instruction)))
    if opcode == "conditional":
        return max(map(bytes_of, _called(instruction)))
    read = sum(_in_memory(of_name[name]) for name in instruction.operands)
    if opcode in ("slice", "slice-start", "dynamic-slice"):  # of the rest nothing is read
        read = min(read, _results(instruction)[0].bytes)
    if opcode == "custom-call":  # cuBLAS lists its working space, bytes, among its outputs
        return read + _in_memory(instruction._replace(arrays=_wide(instruction.arrays)))
    if opcode.endswith("-start"):  # its output is written when it is done
        return read
    if opcode.endswith("-done"):
        return _in_memory(instruction)
    return read + _in_memory(instruction)


def _in_memory(instruction: Instruction) -> int:
    return sum(array.bytes for array in instruction.arrays if not array.on_chip)


def _wide(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(array for array in arrays if array.dtype != "s8")


def _results(instruction: Instruction) -> tuple[Array, ...]:
    """Arrays that an instruction makes; most that only start list what they read before them."""
    arrays, count = instruction.arrays, len(instruction.operands)
    if instruction.opcode.endswith("-start") and instruction.opcode != "all-reduce-start":
        return arrays[count : 2 * count]
    return arrays[:count]


def _trips(instruction: Instruction) -> int:
    """How often the body of a loop runs; 1 for everything else, and where XLA does not know."""
    found = _TRIPS.search(instruction.attributes)
    return int(found[1]) if found else 1


def _called(instruction: Instruction) -> list[str]:
    """Computations that run as a part of the program, apart from fused and applied ones."""
    keys = {"while": "body", "call": "to_apply", "conditional": "branch_computations"}
    if instruction.opcode not in keys:
        return []
    attributes = instruction.attributes
    if instruction.opcode == "conditional" and "branch_computations" not in attributes:
        return re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", attributes)
    found = re.search(keys[instruction.opcode] + r"=(\{[^}]*\}|%?[\w.\-]+)", attributes)
    return re.findall(r"[\w.\-]+", found[1])


def _fused(instruction: Instruction) -> list[str]:
    """Computations that are a part of it, in which a TPU's compiler puts exchanges, too."""
    if instruction.opcode not in ("fusion", "async-start"):
        return []
    return re.findall(r"\bcalls=%?([\w.\-]+)", instruction.attributes)


def _computations(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """({name: its instructions}, the name of the one that the program begins with)."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif current is not None and " = " in line:
            current.append(_instruction(line))
    return computations, entry


def _instruction(line: str) -> Instruction:
    name, _, rest = line.strip().removeprefix("ROOT ").partition(" = ")
    end = _closing(rest) if rest.startswith("(") else rest.index(" ")
    opcode, _, after = rest[end:].strip().partition("(")
    close = _closing("(" + after) - 1
    operands = tuple(_NAME.findall(after[:close]))
    return Instruction(name.lstrip("%"), _arrays(rest[:end]), opcode, operands, after[close:])


def _closing(text: str) -> int:
    """One past the bracket that closes the first one."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return place + 1
    raise ValueError(f"No closing bracket in {text[:80]!r}.")


def _arrays(type_text: str) -> tuple[Array, ...]:
    found = []
    for dtype, dims, layout in _ARRAY.findall(type_text):
        sides = [int(side) for side in dims.split(",") if side]
        order, _, placing = layout.strip("{}").partition(":")
        if order and placing.startswith("T("):  # a TPU's, in tiles that are filled up
            tile = [int(side) for side in placing[2 : placing.index(")")].split(",")]
            for axis, side in zip(map(int, order.split(",")), reversed(tile), strict=False):
                sides[axis] = -(-sides[axis] // side) * side
        size = math.prod(sides) * _bits(dtype) // 8
        found.append(Array(dtype, size, bool(re.search(r"S\([1-9]", placing))))
    return tuple(found)


def _bits(dtype: str) -> int:
    """Of "f32", "bf16", "f8e4m3fn", "pred"."""
    if dtype in ("pred", "token"):
        return 8 if dtype == "pred" else 0
    return int(re.search(r"\d+", dtype)[0])
