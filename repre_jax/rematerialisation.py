"""What the backward pass of a transformer's blocks computes again, from the least to the most."""

from repre_jax.errors import UserError

NONE, ATTENTION, BLOCK = "none", "attention", "block"
LEVELS = (NONE, ATTENTION, BLOCK)
KEPT = "kept"  # name of the arrays of a block that ``ATTENTION`` does not compute again


def level_of(value: str | bool, key: str = "model.remat") -> str:
    """The level that a key of the config names; before there were three, True was "block".

    Raises:
      UserError: it is none.
    """
    if isinstance(value, bool):
        return BLOCK if value else NONE
    if value not in LEVELS:
        raise UserError(f"{key}={value!r} must be one of {', '.join(LEVELS)}.")
    return value


def levels_above(level: str) -> tuple[str, ...]:
    """The levels that keep less than ``level``, the next one first."""
    return LEVELS[LEVELS.index(level) + 1 :]
