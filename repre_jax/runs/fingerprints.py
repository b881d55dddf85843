"""Fingerprints of pytrees of arrays: of every byte, and of the structure alone."""

import concurrent.futures
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

_AHEAD = 16  # arrays that may wait to be hashed


def params_sha256(params: Any) -> str:
    """SHA-256 over path names, dtypes, shapes and bytes of all arrays of a pytree.

    The same for the same values whatever the devices, shardings and order of dictionary keys.

    Args:
      params: pytree of jax or numpy arrays; in a run of several processes, called by all.

    Returns:
      64 hexadecimal digits.
    """
    return joint_sha256(array_sha256s(params))


def array_sha256s(tree: Any) -> dict[str, str]:
    """{"path dtype shape": SHA-256 of the bytes} of every array of a pytree.

    Args:
      tree: as for ``params_sha256``; a part of one gives the same entries as the whole does.
    """
    names, leaves = _named_leaves(tree)
    # hashlib releases the interpreter lock: a gigabyte is hashed by all cores together.
    digests: list[concurrent.futures.Future[str]] = []
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for number, leaf in enumerate(leaves):
            if number >= _AHEAD:  # else all would lie on the host at once
                digests[number - _AHEAD].result()
            # Gathered here: all processes must ask for the same array at the same time.
            digests.append(pool.submit(_sha256, _here(leaf)))
    return {name: digest.result() for name, digest in zip(names, digests, strict=True)}


def joint_sha256(digests: Mapping[str, str]) -> str:
    """What ``params_sha256`` says of the pytree that these ``array_sha256s`` are of."""
    return _sha256_of_lines(f"{name} {digest}" for name, digest in digests.items())


def structure_sha256(tree: Any) -> str:
    """SHA-256 over path names, dtypes and shapes of all arrays, abstract ones too, of a pytree."""
    return _sha256_of_lines(_named_leaves(tree)[0])


def _named_leaves(tree: Any) -> tuple[list[str], list[Any]]:
    """One line "path dtype shape" for every leaf, and the leaves."""
    pairs = jax.tree_util.tree_leaves_with_path(tree)
    leaves = [leaf for _, leaf in pairs]
    names = [
        f"{jax.tree_util.keystr(path, simple=True, separator='/')} {leaf.dtype} {leaf.shape}"
        for path, leaf in pairs
    ]
    return names, leaves


def _here(leaf: Any) -> Any:
    """An array of which other processes have shares, whole; others as they are."""
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        return multihost_utils.process_allgather(leaf, tiled=True)
    return leaf


def _sha256(leaf: Any) -> str:
    array = np.ascontiguousarray(leaf)
    return hashlib.sha256(array.reshape(-1).view(np.uint8)).hexdigest()


def _sha256_of_lines(lines: Iterator[str] | list[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
