"""Which programs are compiled while something runs."""

import collections
import contextlib
from collections.abc import Iterator

import jax

_COMPILED = "/jax/core/compile/backend_compile_duration"
_counters: list[collections.Counter] = []


def _count(event: str, seconds: float, **about) -> None:
    del seconds
    if event == _COMPILED:
        for counter in _counters:
            counter[about["fun_name"].removeprefix("jit(").removesuffix(")")] += 1


jax.monitoring.register_event_duration_secs_listener(_count)


@contextlib.contextmanager
def compilations() -> Iterator[collections.Counter]:
    """How often functions are compiled in here, by name.

    A function of a module may have been compiled before; one that is made anew has not.
    """
    counter = collections.Counter()
    _counters.append(counter)
    try:
        yield counter
    finally:
        _counters.remove(counter)
