"""Where random draws come from: each is a function of the seed, its purpose and what it is for.

Draws for an image are made of (seed, purpose, epoch, index), so they depend neither on its place
in the batch nor on workers, hosts or devices; those for a whole step of (seed, purpose, step).
"""

import enum

import jax


class Stream(enum.IntEnum):
    """Purposes. Values are part of what a seed means, and far from any step or epoch."""

    AUGMENTATION = 0x6175676D  # "augm" in ASCII
    DROP_PATH = 0x64726F70  # "drop"
    MEMORY = 0x6D656D6F  # "memo", of the initial memory
    MASKS = 0x6D61736B  # "mask", and the windows of LoMaR
    HEAD = 0x68656164  # "head", of a classifier
    ERASING = 0x65726173  # "eras"
    MIXING = 0x6D697875  # "mixu"
    FINETUNING_DROP_PATH = 0x66746470  # "ftdp"
    DETECTION = 0x64657465  # "dete", which anchors and regions are trained on
    SEGMENTATION = 0x7365676D  # "segm", flips and colours of images with maps


def stream_key(seed: int, stream: int) -> jax.Array:
    """Key of a purpose."""
    # Named, because the hardware generators ("rbg") draw differently under vmap.
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), stream)


def step_key(seed: int, stream: int, step: jax.Array) -> jax.Array:
    """Key of a purpose in one step."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), stream), step)


def example_keys(seed: int, stream: int, epoch: jax.Array, index: jax.Array) -> jax.Array:
    """Keys [B] of images: of the same image in the same epoch always the same.

    Args:
      seed: of the run.
      stream: the purpose.
      epoch, index: int32 [B].
    """
    root = stream_key(seed, stream)
    return jax.vmap(lambda e, i: jax.random.fold_in(jax.random.fold_in(root, e), i))(epoch, index)
