"""Frames of a clip through the encoder, and the first one's labels through the frames."""

import functools
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from repre_jax.data.host.crops import resize
from repre_jax.data.segmentation.label_maps import VOID
from repre_jax.evaluation.correspondence.clips import DAVIS, Clip
from repre_jax.evaluation.correspondence.propagate import (
    Settings,
    as_classes,
    first_context,
    propagate,
)
from repre_jax.evaluation.segmentation.maps import block_maps, with_fused
from repre_jax.evaluation.task import Evaluation
from repre_jax.image_size import height_and_width
from repre_jax.sharding import by_row, jitted

# Of the long side where only the short one is given (facebookresearch/dino, read_frame).
_STRIDE = 64
# Objects of a video are padded to multiples: one program serves most videos.
_OBJECTS = 8


class Carrier:
    """Labels of a clip's first frame, carried on by the features of several blocks at once."""

    def __init__(self, evaluation: Evaluation, blocks: tuple[int, ...], fused: bool):
        """Takes the encoder, its images and the settings of ``evaluation.config``."""
        config = evaluation.config
        self._source, self._image_size = evaluation.val, config.image_size
        self._encoder = evaluation.pretrained.encoder
        self._many_objects = config.data.layout == DAVIS
        self._settings = Settings(
            config.radius, config.neighbours, config.temperature, config.context_frames
        )
        self._batch = evaluation.batch_size
        self._sharding = by_row(evaluation.mesh)
        self._device = evaluation.mesh.devices.flat[0]

        def encode(params, images):
            return with_fused(block_maps(self._encoder, params, images, blocks), fused)

        self._encode = jitted(encode, evaluation.mesh)

    def read(self, clip: Clip) -> tuple[np.ndarray, list[np.ndarray]]:
        """(frames uint8 [T, H, W, 3] at the size of the evaluation, their maps at their own).

        Frames shrink with antialiasing, as all images here; DINO's read_frame does without.

        Raises:
          BadImage: one of them cannot be read.
        """
        pairs = [self._source.read_pair(index) for index in clip.frames]
        rows, columns = self._size_of(pairs[0][1].shape)
        frames = np.stack([resize(image, rows, columns, "bilinear") for image, _ in pairs])
        return frames, [label for _, label in pairs]

    def carry(
        self, params: Any, frames: np.ndarray, labels: list[np.ndarray]
    ) -> list[list[np.ndarray]]:
        """For every block, and the fused ones, the classes of the frames behind the first.

        Args:
          params: of the encoder.
          frames, labels: of ``read``.

        Returns:
          Lists of T - 1 maps uint8, each of the size of the frame's own.
        """
        size = frames.shape[1:3]
        classes = self._classes_of(labels[0])
        contexts: list[Any] = []
        found: list[list[np.ndarray]] = []
        for start in range(0, len(frames), self._batch):
            chunk = frames[start : start + self._batch]
            padded = np.pad(chunk, ((0, self._batch - len(chunk)),) + ((0, 0),) * 3)
            maps = self._encode(params, jax.device_put(padded, self._sharding))
            maps = jax.device_put(maps, self._device)
            found = found or [[] for _ in maps]
            for k, of_block in enumerate(maps):
                grid = of_block.shape[1:3]
                features = of_block.reshape(self._batch, grid[0] * grid[1], -1)
                at = 0
                if start == 0:
                    first = patch_labels(labels[0], grid, classes)
                    contexts.append(first_context(features[0], first, self._settings))
                    at = 1
                for number in range(at, len(chunk)):
                    contexts[k], soft = propagate(
                        contexts[k], features[number], grid=grid, settings=self._settings
                    )
                    given = np.asarray(as_classes(soft, grid=grid, size=size))
                    found[k].append(enlarged(given, labels[start + number].shape))
        return found

    def _size_of(self, own: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of a clip's frames: ``image_size``, or what its short side makes of their own."""
        if not isinstance(self._image_size, int):
            return height_and_width(self._image_size)
        short, multiple = self._image_size, self._encoder.size_multiple
        stride = _STRIDE if _STRIDE % multiple == 0 else multiple
        height, width = own
        if height > width:
            return short * height // width // stride * stride, short
        return short, short * width // height // stride * stride

    def _classes_of(self, first: np.ndarray) -> int:
        if not self._many_objects:
            return len(self._source.class_names)
        largest = int(first[first != VOID].max(initial=0))
        return -(-(largest + 1) // _OBJECTS) * _OBJECTS


@functools.partial(jax.jit, static_argnames="classes")
def _one_hot(labels: jax.Array, classes: int) -> jax.Array:
    return jax.nn.one_hot(labels.reshape(-1), classes)


def patch_labels(label: np.ndarray, grid: tuple[int, int], classes: int) -> jax.Array:
    """Classes of patches [N, C], each that of the pixel at its centre; void has no class at all."""
    small = cv2.resize(label, grid[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return _one_hot(jnp.where(small == VOID, -1, small.astype(np.int32)), classes)


def enlarged(classes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Classes [H, W] at another size, those of the nearest pixels."""
    if classes.shape == size:
        return classes
    return cv2.resize(classes, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
