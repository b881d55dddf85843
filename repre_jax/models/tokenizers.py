"""Frozen tokenizers: patches of pixels to ids of visual tokens, without a network to train.

BEiT's own is the encoder of a discrete VAE, which costs more than a ViT-B. These stand in for it,
and results with them are to be called by their names, not BEiT's:

random_projection  a frozen random map of each patch, normalised by itself, to the nearest of so
                   many random unit codes (the quantiser of arXiv 2202.01855).
k_means            the nearest of centroids, found beforehand in such patches (``python main.py
                   --config=configs/patch_clusters.py``).
ids                ids made elsewhere, one array for all images: with these, BEiT's targets.

What a tokenizer knows is a pytree that the run keeps in its checkpoints.
"""

from typing import Any
from zipfile import BadZipFile

import jax
import jax.numpy as jnp
import numpy as np

from repre_jax.errors import UserError
from repre_jax.losses.masked import patch_targets
from repre_jax.losses.normalisation import l2_normalise

TOKENIZERS = ("random_projection", "k_means", "ids")
_PROJECTED = 16  # width of the random codes


def random_codes(key: jax.Array, values: int, vocabulary: int) -> dict[str, jax.Array]:
    """{"projection" [P * P * 3, 16], "codes" [K, 16] of unit length}, frozen."""
    first, second = jax.random.split(key)
    return {
        "projection": jax.random.normal(first, (values, _PROJECTED)),
        "codes": l2_normalise(jax.random.normal(second, (vocabulary, _PROJECTED))),
    }


def read_centroids(path: str, values: int, vocabulary: int) -> dict[str, np.ndarray]:
    """{"centroids" [K, P * P * C]} of a file of ``configs/patch_clusters.py``.

    Raises:
      UserError: no such file, or one of another size.
    """
    centroids = _read(path, "centroids")
    if centroids.shape != (vocabulary, values):
        raise UserError(
            f"{path} has centroids {list(centroids.shape)}, and this run needs "
            f"[{vocabulary}, {values}]: method.vocabulary x values of a patch."
        )
    return {"centroids": centroids.astype(np.float32)}


def read_ids(path: str, grid: tuple[int, int], vocabulary: int) -> dict[str, np.ndarray]:
    """{"ids" int32 [n, gh, gw]} of a file with such an array.

    Raises:
      UserError: no such file, or ids of another grid or vocabulary.
    """
    ids = _read(path, "ids")
    if ids.ndim != 3 or ids.shape[1:] != grid or not len(ids):
        raise UserError(f"{path} has ids {list(ids.shape)}, not [images, {grid[0]}, {grid[1]}].")
    if ids.min() < 0 or ids.max() >= vocabulary:
        raise UserError(
            f"{path} has ids from {ids.min()} to {ids.max()}, and method.vocabulary={vocabulary}."
        )
    return {"ids": ids.astype(np.int32)}


def tokenize(knowledge: Any, patches: jax.Array) -> jax.Array:
    """Ids int32 [...] of patches of pixels [..., P * P * C], each normalised by itself.

    Args:
      knowledge: of ``random_codes`` or ``read_centroids``.
      patches: as the encoder takes their pixels.
    """
    patches = patch_targets(patches, per_patch=True)
    if "codes" in knowledge:
        # Codes are of unit length, so the nearest one is that of the largest product.
        projected = l2_normalise(_product(patches, knowledge["projection"]))
        scores = _product(projected, knowledge["codes"].T)
        return jnp.argmax(scores, axis=-1).astype(jnp.int32)
    centroids = knowledge["centroids"]
    scores = _product(patches, centroids.T) - jnp.sum(jnp.square(centroids), axis=-1) / 2
    return jnp.argmax(scores, axis=-1).astype(jnp.int32)


def _product(x: jax.Array, y: jax.Array) -> jax.Array:
    # In float32 on accelerators, too: rounded to bfloat16 or TF32, another id may be the nearest.
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def _read(path: str, name: str) -> np.ndarray:
    try:
        with np.load(path) as file:
            return file[name]
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise UserError(
            f"method.tokens_path={path!r} cannot be read as an .npz file with {name!r} "
            f"({type(error).__name__})."
        ) from error
