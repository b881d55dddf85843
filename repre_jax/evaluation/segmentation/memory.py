"""The memory of dense nearest neighbours: patches of training images and shares of their classes.

Source: Hummingbird (arXiv 2306.01667, section 3.1 and appendix) in the form of
vpariza/open-hummingbird-eval, hbird/hbird_eval.py (_create_memory, _sample_features).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from repre_jax.data.segmentation.label_maps import VOID


@functools.partial(jax.jit, static_argnames=("grid", "classes"))
def patch_shares(labels: jax.Array, *, grid: tuple[int, int], classes: int) -> jax.Array:
    """Share of each class among all pixels of every patch: float32 [B, gh * gw, C].

    Pixels without a class have a share in none, where the official code takes them for the first
    class: a patch of the void votes for nothing.

    Args:
      labels: uint8 [B, H, W], whose sides are multiples of the grid's.
      grid: (gh, gw).
      classes: C.
    """
    batch, height, width = labels.shape
    rows, columns = height // grid[0], width // grid[1]
    patches = labels.reshape(batch, grid[0], rows, grid[1], columns).swapaxes(2, 3)
    patches = jnp.where(patches == VOID, -1, patches.astype(jnp.int32))
    one_hot = jax.nn.one_hot(patches.reshape(batch, grid[0] * grid[1], -1), classes)
    return one_hot.mean(axis=2)


def sampled_patches(shares: np.ndarray, draws: np.ndarray, count: int) -> np.ndarray:
    """Numbers of the patches of one image that go into the memory: rare classes come first.

    A class's frequency is the number of patches of the image that hold any of it; a patch's score
    is the sum over its classes of these, times a uniform draw; the lowest are taken. Patches
    without any class are never taken.

    Args:
      shares: [N, C] of ``patch_shares``.
      draws: [N], uniform in [0, 1).
      count: how many to take, fewer where there are not so many.
    """
    present = shares > 0
    scores = present @ present.sum(axis=0, dtype=np.float64) * draws
    labelled = np.flatnonzero(present.any(axis=1))
    order = np.argsort(scores[labelled], kind="stable")[:count]
    return labelled[order]


@functools.partial(jax.jit, static_argnames=("grid", "size"))
def classes_of_pixels(
    votes: jax.Array, *, grid: tuple[int, int], size: tuple[int, int]
) -> jax.Array:
    """Votes [B, N, C] of patches -> classes uint8 [B, H, W]: bilinear, the largest wins."""
    maps = votes.reshape(len(votes), *grid, -1)
    maps = jax.image.resize(maps, (len(maps), *size, maps.shape[3]), "linear", antialias=False)
    return jnp.argmax(maps, axis=3).astype(jnp.uint8)
