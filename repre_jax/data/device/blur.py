"""Gaussian blur on the device: Pillow's, and that of SimCLR and BYOL; see ``photometric``.

Pure functions of one image, a tuple of planes [H, W] in [0, 1].
"""

import math

import jax
import jax.numpy as jnp

from repre_jax.data.device.photometric import Planes


def pillow_blur(image: Planes, sigma: jax.Array, largest_sigma: float) -> Planes:
    """Separable blur with Pillow's kernel; the outermost pixels go on beyond the border.

    ``PIL.ImageFilter.GaussianBlur`` runs three box filters of fractional width, whose variances
    add up to sigma squared (Gwosdek et al. 2011, "Theoretical foundations of Gaussian convolution
    by extended box filtering"). The kernel here is their convolution; a Gaussian sampled at the
    pixels would hardly blur for sigma < 0.4, where Pillow does. Within the kernel's reach of the
    border Pillow differs, for it extends the border anew before each box filter.

    Args:
      image: planes.
      sigma: standard deviation in pixels, from 0, which changes nothing, to ``largest_sigma``; may
        be traced.
      largest_sigma: static; decides the number of taps, 13 for 2 pixels.
    """
    kernel = _blur_kernel(sigma, _box_reach(largest_sigma))

    def blurred(plane):
        plane = _correlate(plane, kernel, axis=0)
        plane = _correlate(plane, kernel, axis=1)
        return jnp.minimum(plane, 1)  # the rounded weights of white may sum to a little more

    return tuple(map(blurred, image))


def sampled_blur(image: Planes, sigma: jax.Array) -> Planes:
    """Separable blur of SimCLR and BYOL: a Gaussian sampled at the pixels, black beyond the border.

    Args:
      image: planes.
      sigma: standard deviation in pixels; 0 changes nothing; may be traced. The kernel ends a
        twentieth of the height from its centre: 23 taps at 224 pixels, 1 below 20, which changes
        nothing either.
    """
    reach = image[0].shape[0] // 20
    distance = jnp.arange(-reach, reach + 1)
    kernel = jnp.exp(-((distance / jnp.where(sigma > 0, sigma, 1)) ** 2) / 2)
    kernel = jnp.where(sigma > 0, kernel, distance == 0)
    kernel = kernel / kernel.sum()

    def blurred(plane):
        plane = _correlate(plane, kernel, axis=1, border=0.0)
        return jnp.minimum(_correlate(plane, kernel, axis=0, border=0.0), 1)

    return tuple(map(blurred, image))


def _box_reach(sigma: float) -> int:
    """Pixels that one of the three box filters touches at either side."""
    return math.floor((math.sqrt(4 * sigma**2 + 1) - 1) / 2) + 1


def _blur_kernel(sigma: jax.Array, reach: int) -> jax.Array:
    """[6 * reach + 1]: a box filter convolved with itself twice, its variance sigma squared."""
    variance = sigma**2 / 3
    whole = jnp.floor((jnp.sqrt(12 * variance + 1) - 1) / 2)
    # Weights are 1 up to `whole` pixels from the centre, and one pixel further what brings the
    # filter's variance to what is asked.
    edge = (2 * whole + 1) * (3 * variance - whole * (whole + 1))
    edge = edge / (6 * ((whole + 1) ** 2 - variance))
    distance = jnp.abs(jnp.arange(-reach, reach + 1))
    box = jnp.where(distance <= whole, 1.0, jnp.where(distance == whole + 1, edge, 0.0))
    box = box / box.sum()
    return _convolve(_convolve(box, box), box)


def _convolve(a: jax.Array, b: jax.Array) -> jax.Array:
    """Full convolution of two short vectors in plain float32: no device's matrix unit rounds it."""
    return sum(a[i] * jnp.pad(b, (i, a.size - 1 - i)) for i in range(a.size))


def _correlate(
    plane: jax.Array, kernel: jax.Array, axis: int, border: float | None = None
) -> jax.Array:
    """Weighted sum of shifted slices of [H, W] along one axis.

    Beyond the border is the value given, or the outermost pixels go on.

    The kernel differs from example to example, so a convolution would have one group per example:
    ten times as slow on a CPU, and off the fast paths of GPU and TPU, where the slices fuse into
    one memory-bound kernel. The barrier keeps XLA from computing the padding, and what comes before
    it, once for each tap.
    """
    reach = kernel.size // 2
    size = plane.shape[axis]
    widths = [(reach, reach) if a == axis else (0, 0) for a in range(plane.ndim)]
    beyond = {"mode": "edge"} if border is None else {"constant_values": border}
    padded = jax.lax.optimization_barrier(jnp.pad(plane, widths, **beyond))
    return sum(
        kernel[tap] * jax.lax.slice_in_dim(padded, tap, tap + size, axis=axis)
        for tap in range(kernel.size)
    )
