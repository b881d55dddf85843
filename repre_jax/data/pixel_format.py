"""In which form a run wants its images: how many channels, and which values are black and white."""

import dataclasses
import numbers
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from repre_jax.errors import UserError

_MOST_CHANNELS = 512  # of a hyperspectral camera


@dataclasses.dataclass(frozen=True)
class PixelFormat:
    """What ``decode.decode_image`` makes of a file.

    Attributes:
      channels: C; colours become one channel, or one channel three, as a person would see it.
      range: the stored values that become 0 and 1. Pixels then have 16 bits from end to end. None:
        8 bits, and ``levels.eight_bits`` finds out for each image what its values mean.
    """

    channels: int = 3
    range: tuple[float, float] | None = None

    @property
    def dtype(self) -> np.dtype:
        """uint8, or uint16 where a range is given."""
        return np.dtype(np.uint8 if self.range is None else np.uint16)

    @property
    def as_seen(self) -> bool:
        """Whether images are pictures of 8 bits, in colours or grey, as a person would see them."""
        return self.range is None and self.channels in (1, 3)


RGB = PixelFormat()


def pixel_format(config: ConfigDict, channels: int) -> PixelFormat:
    """The format that ``config.data.range`` and a number of channels ask for.

    Raises:
      UserError: a range or a number that cannot be.
    """
    ends = config.get("range")
    if ends is not None:
        if (
            len(ends) != 2
            or not all(isinstance(x, numbers.Real) and np.isfinite(x) for x in ends)
            or not ends[0] < ends[1]
        ):
            raise UserError(
                f"data.range={tuple(ends)} must be two numbers, the stored values that are black "
                "and white, as in (0, 4095)."
            )
        ends = (float(ends[0]), float(ends[1]))
    if not 1 <= channels <= _MOST_CHANNELS:
        raise UserError(f"model.channels={channels} must be between 1 and {_MOST_CHANNELS}.")
    return PixelFormat(channels, ends)


def as_shares(levels: Any) -> Any:
    """uint8 or uint16, of NumPy or JAX -> float32 in [0, 1]: shares of the largest level."""
    return levels.astype(np.float32) / np.iinfo(levels.dtype).max
