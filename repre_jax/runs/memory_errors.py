"""What it means for the user that the memory of the devices was not enough."""

import contextlib
from collections.abc import Iterator

import jax

from repre_jax.errors import UserError


@contextlib.contextmanager
def memory_shortage_told(advice: str) -> Iterator[None]:
    """Turns XLA's error about exhausted memory into a UserError that ends with ``advice``."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        found = str(error).partition("RESOURCE_EXHAUSTED:")[2].strip().splitlines()
        told = f" ({found[0].rstrip('.')})" if found else ""
        raise UserError(f"The devices have too little memory{told}. {advice}") from error
