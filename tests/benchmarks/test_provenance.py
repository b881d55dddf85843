"""What a benchmark records about itself."""

import shlex
import sys

from benchmarks.provenance import provenance


def test_the_command_can_be_pasted_into_a_shell(monkeypatch):
    """Brackets of a tuple and spaces arrive again as they were given."""
    given = ["--linear_flags=--config.rate_factors=(0.1,1.0)", "--data=/my images"]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *given])
    assert shlex.split(provenance()["command"])[-2:] == given
