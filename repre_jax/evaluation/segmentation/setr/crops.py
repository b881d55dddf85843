"""Training crops of images and maps: cut on the host, flipped and coloured on the device.

Source: fudan-zvg/SETR, configs/_base_/datasets/cityscapes_768x768.py (Resize, RandomCrop,
RandomFlip, PhotoMetricDistortion, Pad) and mmseg/datasets/pipelines/transforms.py.
"""

import dataclasses
from typing import NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from repre_jax.data.batches import NOT_REPLACED, Rows, read_or_next
from repre_jax.data.device.photometric import Planes, Tone, adjust_hue, adjust_tone, flip
from repre_jax.data.pipeline import Batches, batches_of, process_rows
from repre_jax.data.pixel_format import as_shares
from repre_jax.data.recipes import SIMCLR
from repre_jax.data.segmentation.label_maps import VOID
from repre_jax.data.segmentation.source import SegmentationSource
from repre_jax.evaluation.segmentation.views import training_order
from repre_jax.random_streams import Stream, example_keys

_CROP_TRIES = 10
_BRIGHTNESS = 32 / 255
_FACTORS = (0.5, 1.5)  # of contrast and of saturation
_HUE = 18 / 180  # OpenCV's hue goes round in 180


class CropRecipe(NamedTuple):
    """How crops are made.

    Attributes:
      size: (H, W) of the crop.
      scale: of the image before it is cut, (lowest, highest), drawn uniformly.
      base: (short, long) side that scale 1 makes an image fit into; None for its own size.
      max_share: a crop in which one class has more of the pixels is drawn again, up to ten times.
    """

    size: tuple[int, int]
    scale: tuple[float, float]
    base: tuple[int, int] | None
    max_share: float


def scaled_size(
    own: tuple[int, int], base: tuple[int, int] | None, scale: float
) -> tuple[int, int]:
    """(H, W) of an image at a scale: the largest of its own shape that fits into ``base`` times it.

    mmcv's rescale_size: sides are rounded to the nearest pixel.
    """
    height, width = own
    if base is None:
        factor = scale
    else:  # mmcv rounds the sides of the box down
        short, long = (int(side * scale) for side in base)
        factor = min(long / max(own), short / min(own))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def rescaled(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image uint8 [h, w, 3] at (H, W), bilinear without antialiasing, as mmcv resizes."""
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)


def draw_crop(
    image: np.ndarray, label: np.ndarray, recipe: CropRecipe, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """A crop of a scaled image and its map; what lies beyond the image is void.

    Returns:
      (image uint8 [H, W, 3], classes uint8 [H, W], (rows, columns) that are of the image).
    """
    size = scaled_size(label.shape, recipe.base, rng.uniform(*recipe.scale))
    image = rescaled(image, size)
    label = cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST)
    room = [max(side - crop, 0) for side, crop in zip(size, recipe.size, strict=True)]

    def draw() -> tuple[slice, slice]:
        top, left = (int(rng.integers(0, free + 1)) for free in room)
        return np.s_[top : top + recipe.size[0], left : left + recipe.size[1]]

    part = draw()
    for _ in range(_CROP_TRIES):
        classes, counts = np.unique(label[part], return_counts=True)
        counts = counts[classes != VOID]
        if len(counts) > 1 and counts.max() / counts.sum() < recipe.max_share:
            break
        part = draw()
    out = np.zeros((*recipe.size, 3), np.uint8), np.full(recipe.size, VOID, np.uint8)
    rows, columns = label[part].shape
    out[0][:rows, :columns], out[1][:rows, :columns] = image[part], label[part]
    return *out, (rows, columns)


@dataclasses.dataclass(frozen=True)
class CropChunks:
    """Makes chunk c of the training sequence; see ``data.batches.TrainingChunks``."""

    source: SegmentationSource
    recipe: CropRecipe
    batch_size: int
    seed: int
    rows: Rows
    order: np.ndarray

    @property
    def chunk_bytes(self) -> int:
        """Size of the pixels of the largest chunk."""
        return self.rows.count * self.recipe.size[0] * self.recipe.size[1] * 4

    def __call__(self, chunk: int) -> dict[str, np.ndarray]:
        cv2.setNumThreads(0)  # chunks run side by side already
        step, number = divmod(chunk, self.rows.chunks)
        rows = self.rows.chunk(number)
        batch = {
            "image": np.zeros((len(rows), *self.recipe.size, 3), np.uint8),
            "label": np.zeros((len(rows), *self.recipe.size), np.uint8),
            "inside": np.zeros((len(rows), 2), np.int32),
            "index": np.zeros(len(rows), np.int32),
            "replaced": np.full(len(rows), NOT_REPLACED, np.int32),
        }
        for position, row in enumerate(rows):
            wanted = int(self.order[step * self.batch_size + row])
            index, image, label = read_or_next(self.source, wanted, self.source.read_pair)
            rng = np.random.default_rng((self.seed, step, wanted))
            image, label, inside = draw_crop(image, label, self.recipe, rng)
            batch["image"][position], batch["label"][position] = image, label
            batch["inside"][position], batch["index"][position] = inside, index
            if index != wanted:
                batch["replaced"][position] = wanted
        return batch


def crop_batches(
    source: SegmentationSource,
    recipe: CropRecipe,
    *,
    batch_size: int,
    steps: int,
    start_step: int,
    seed: int,
    workers: int,
) -> Batches:
    """Batches {"image", "label", "inside" int32 [b, 2], "index", "replaced"} of training crops.

    Batch t is a function of (seed, t), whatever the workers.
    """
    rows = process_rows(batch_size)
    order = training_order(len(source), batch_size=batch_size, steps=steps, seed=seed)
    chunks = CropChunks(source, recipe, batch_size, seed, rows, order)
    return batches_of(chunks, rows, start_step, steps, workers)


def augmented(
    batch: dict[str, jax.Array], step: jax.Array, seed: int, photometric: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(pixels float32 in [0, 1] [B, H, W, 3], classes [B, H, W], inside bool [B, H, W]) of a batch.

    Draws are functions of (seed, step, index).
    """
    height, width = batch["label"].shape[1:]
    steps = jnp.full_like(batch["index"], step)
    keys = example_keys(seed, Stream.SEGMENTATION, steps, batch["index"])
    rows, columns = jnp.arange(height), jnp.arange(width)

    def one(key, image, label, inside):
        there = (rows < inside[0])[:, None] & (columns < inside[1])
        pixels = as_shares(image)
        flip_key, colour_key = jax.random.split(key)
        flipped = jax.random.bernoulli(flip_key)
        planes = (*jnp.unstack(pixels, axis=-1), label, there)
        # SETR flips, then pads: what lies beyond the image stays on the right.
        mirrored = [jnp.roll(plane, inside[1] - width, axis=1) for plane in flip(planes)]
        pairs = zip(mirrored, planes, strict=True)
        *planes, label, there = (jnp.where(flipped, *pair) for pair in pairs)
        if photometric:
            planes = distorted(colour_key, planes)
        return jnp.stack(planes, axis=-1), label, there

    return jax.vmap(one)(keys, batch["image"], batch["label"], batch["inside"])


def distorted(key: jax.Array, image: Planes) -> Planes:
    """Brightness, contrast early or late, saturation and hue, each half the time.

    Args:
      key: of the draws.
      image: three planes in [0, 1].
    """
    coins, brightness, contrast, saturation, hue = jax.random.split(key, 5)
    coin = jax.random.bernoulli(coins, shape=(5,))
    shift = jax.random.uniform(brightness, minval=-_BRIGHTNESS, maxval=_BRIGHTNESS)
    gain = jax.random.uniform(contrast, minval=_FACTORS[0], maxval=_FACTORS[1])
    factor = jax.random.uniform(saturation, minval=_FACTORS[0], maxval=_FACTORS[1])
    turns = jax.random.uniform(hue, minval=-_HUE, maxval=_HUE)
    late = coin[4]

    def perhaps(chosen, changed):
        return tuple(jnp.where(chosen, *pair) for pair in zip(changed, image, strict=True))

    image = perhaps(coin[0], [jnp.clip(plane + shift, 0, 1) for plane in image])
    image = perhaps(coin[1] & ~late, [jnp.clip(plane * gain, 0, 1) for plane in image])
    image = perhaps(coin[2], adjust_tone(image, Tone.SATURATION, factor, SIMCLR))
    image = perhaps(coin[3], adjust_hue(image, turns))
    return perhaps(coin[1] & late, [jnp.clip(plane * gain, 0, 1) for plane in image])
