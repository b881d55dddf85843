"""Stored values of images, band by band, for runs that want more than a picture of 8 bits."""

import io

import cv2
import numpy as np
import tifffile

from repre_jax.data.sources.png import without_animation

_LARGEST = np.iinfo(np.uint16).max


def png_samples(encoded: bytes, animated: bool) -> np.ndarray:
    """Values of a PNG as it stores them: [H, W, C], colours as RGB, an alpha channel last.

    Raises:
      ValueError: it is damaged.
    """
    if animated:
        encoded = without_animation(encoded)
    samples = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None:
        raise ValueError("a damaged PNG")
    if samples.ndim == 2:
        return samples[..., None]
    return cv2.cvtColor(
        samples, cv2.COLOR_BGR2RGB if samples.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
    )


def tiff_samples(encoded: bytes, channels: int, most_values: int) -> np.ndarray:
    """Values of a TIFF as it stores them: [H, W, C].

    Bands lie in the samples of a page, or each in a page of its own, as microscopes write them. Of
    other stacks the first page is taken.

    Args:
      encoded: the file's bytes.
      channels: how many are wanted, which tells a stack of bands from other pages.
      most_values: that are read of one image.

    Raises:
      ValueError: it is damaged or too large.
    """
    with tifffile.TiffFile(io.BytesIO(encoded)) as file:
        series, page = file.series[0], file.pages[0]
        axes, shape = series.get_axes(squeeze=True), series.get_shape(squeeze=True)
        stacked = len(shape) == 3 and axes.endswith("YX") and shape[0] == channels and channels != 1
        chosen = series if stacked else page
        if chosen.size > most_values:
            raise ValueError(f"{chosen.size} values, more than the {most_values} that are read")
        samples = chosen.asarray()
        if stacked:
            samples = samples.reshape(shape)
        if stacked or (page.axes.startswith("S") and samples.ndim == 3):
            samples = np.moveaxis(samples, 0, -1)
    if samples.ndim not in (2, 3):
        raise ValueError(f"a TIFF with axes {axes} of {shape}, which is no image with bands")
    return samples[..., None] if samples.ndim == 2 else samples


def to_channels(samples: np.ndarray, channels: int) -> np.ndarray:
    """Values [H, W, c] with so many channels, where a person would see the same.

    One channel becomes three equal ones, three become their luma, an alpha channel is dropped.

    Raises:
      ValueError: there are more or fewer.
    """
    found = samples.shape[2]
    if found == channels:
        return samples
    if channels in (1, 3) and found == channels + 1:
        return samples[..., :channels]
    if channels == 3 and found in (1, 2):
        return np.repeat(samples[..., :1], 3, axis=2)
    if channels == 1 and found in (3, 4):
        known = samples if samples.dtype in (np.uint8, np.uint16) else samples.astype(np.float32)
        return cv2.cvtColor(np.ascontiguousarray(known[..., :3]), cv2.COLOR_RGB2GRAY)[..., None]
    raise ValueError(f"{found} channel(s), and model.channels is {channels}")


def to_levels(samples: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
    """Values as uint16: those from one end to the other become 0..65535, those beyond are clipped.

    Raises:
      ValueError: values that are no real numbers.
    """
    if samples.dtype.kind not in "uifb":
        raise ValueError(f"values of type {samples.dtype}")
    low, high = ends
    shares = (samples.astype(np.float64) - low) / (high - low)
    if np.isnan(shares).any():
        raise ValueError("values that are not a number")
    return np.rint(np.clip(shares, 0, 1) * _LARGEST).astype(np.uint16)
