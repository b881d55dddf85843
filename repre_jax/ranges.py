"""What numbers of a config may be: tables of ranges, and one sentence for a number outside."""

import math
import numbers
from collections.abc import Mapping
from typing import Any, NamedTuple

from repre_jax.errors import UserError

_LARGEST = 3.4e38  # what is larger is infinite in float32


class Range(NamedTuple):
    """Numbers from ``low`` to ``high``, maybe only whole ones; an open end is not among them."""

    low: float
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False
    whole: bool = False

    def is_kind(self, value: Any) -> bool:
        """Whether ``value`` is a number at all, and a whole one where only these are meant."""
        kind = numbers.Integral if self.whole else numbers.Real
        return isinstance(value, kind) and not isinstance(value, bool)

    def holds(self, value: float) -> bool:
        """Whether ``value`` is inside; NaN and infinity never are."""
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return above and below and abs(value) <= _LARGEST

    def __str__(self) -> str:
        low = f"{'above' if self.low_open else 'at least'} {self.low:g}"
        high = f" and {'below' if self.high_open else 'at most'} {self.high:g}"
        return low + (high if math.isfinite(self.high) else "")


POSITIVE = Range(0, low_open=True)
NOT_NEGATIVE = Range(0)
AT_LEAST_ONE = Range(1, whole=True)
SEED = Range(0, 2**31 - 1, whole=True)
SHARE = Range(0, 1)
POSITIVE_SHARE = Range(0, 1, low_open=True)
SHARE_BELOW_ONE = Range(0, 1, high_open=True)
OPEN_SHARE = Range(0, 1, low_open=True, high_open=True)


def check_ranges(config: Mapping[str, Any], ranges: Mapping[str, Range]) -> None:
    """Raises UserError for the first number of ``config`` that lies outside its range.

    Args:
      config: maybe with sections; keys that it lacks, or that are None, are passed over.
      ranges: "section.key" -> range of the number, or of each number of a list.
    """
    for key, allowed in ranges.items():
        value: Any = config
        for part in key.split("."):
            value = value.get(part) if value is not None else None
        if value is None:
            continue
        several = isinstance(value, (tuple, list))
        values, each = (value, "each ") if several else ((value,), "")
        if not all(map(allowed.is_kind, values)):
            kind = "a whole number" if allowed.whole else "a number"
            raise UserError(f"{key}={value} must {each}be {kind}.")
        if not all(map(allowed.holds, values)):
            limit = ", and not so large" if any(abs(x) > _LARGEST for x in values) else ""
            raise UserError(f"{key}={value} must {each}be {allowed}{limit}.")
