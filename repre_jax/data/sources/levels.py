"""Samples of any kind as levels 0..255."""

import numpy as np

# Microscopes and cameras store 12 bits in samples of 16 and seldom say so.
_USUAL_BITS = 12


def eight_bits(samples: np.ndarray, significant: int | None = None) -> tuple[np.ndarray, int]:
    """Scales samples to 0..255.

    Integers of 16 bits: where the file says how many bits are significant, that many; else 12,
    where the largest value of the image is below 4096; else 16. A file that says 12 but holds
    larger values has scaled them to 16 already, as the PNG standard asks, and counts as 16.
    Floats: those of an image in [0, 1] are multiplied by 255, those in [0, 255] are levels
    already.

    Args:
      samples: uint8, uint16 or float [...].
      significant: bits of a sample that the file calls significant; None where it does not say.

    Returns:
      uint8 [...] and the number of bits of a sample that were taken as significant; 8 for
      anything but uint16.

    Raises:
      ValueError: samples of another type, or floats that are in neither range.
    """
    if samples.dtype == np.uint8:
        return samples, 8
    if samples.dtype == np.uint16:
        bits = significant or _USUAL_BITS
        if bits >= 16 or samples.max() >= 1 << bits:
            return (samples >> 8).astype(np.uint8), 16
        return np.rint(samples * (255 / ((1 << bits) - 1))).astype(np.uint8), bits
    if samples.dtype.kind == "f":
        low, high = samples.min(), samples.max()
        if not (low >= 0 and high <= 255):  # so written that NaN is refused
            raise ValueError(
                f"floats from {low:.4g} to {high:.4g}, which are neither in [0, 1] nor in [0, 255]"
            )
        return np.rint(samples * (255 if high <= 1 else 1)).astype(np.uint8), 8
    raise ValueError(f"samples of type {samples.dtype}")
