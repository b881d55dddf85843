"""A trace of some steps by JAX's profiler, for TensorBoard's profile plug-in, XProf or Perfetto."""

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from repre_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Profile:
    """Steps to be traced.

    Attributes:
      first, last: step numbers, from 1, both among them.
      folder: of the trace.
    """

    first: int
    last: int
    folder: Path

    @classmethod
    def of(cls, steps: str, folder: Path) -> "Profile | None":
        """What ``logging.profile`` asks for: "10:20"; None for "".

        Raises:
          UserError: it is no such pair.
        """
        if not steps:
            return None
        first, separator, last = steps.partition(":")
        if not (separator and first.isdecimal() and last.isdecimal()):
            raise UserError(f"logging.profile={steps!r} must be two steps, as in 10:20.")
        if not 1 <= int(first) <= int(last):
            raise UserError(f"logging.profile={steps!r} must rise, from step 1 on.")
        return cls(int(first), int(last), folder)

    def lies_within(self, first: int, last: int) -> bool:
        """Whether it begins in a training from one step to another."""
        return first <= self.first <= last

    def begin(self, step: int, trace: contextlib.ExitStack) -> None:
        """Begins the trace before its first step; ``trace`` ends it."""
        if step == self.first:
            trace.enter_context(jax.profiler.trace(self.folder))

    def end(
        self, step: int, results: Any, trace: contextlib.ExitStack, say: Callable[[str], None]
    ) -> None:
        """Ends the trace after its last step, once the devices have the step's ``results``."""
        if step == self.last:
            jax.block_until_ready(results)
            trace.close()
            say(f"Steps {self.first:,} to {self.last:,} are traced in {self.folder}.")
