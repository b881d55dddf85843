"""Geometry on the host: where the views of an image are cut, and how they are resized."""

import functools
import math

import cv2
import numpy as np

from repre_jax.data.host.rand_augment import rand_augment
from repre_jax.data.recipes import ViewRecipe

# torchvision's RandomResizedCrop gives up after ten draws that do not fit.
_CROP_TRIES = 10
# Above this shrink factor, plain area averaging first brings an axis to this multiple of its
# target: the rest of the way keeps the filter's shape, and no filter grows long.
_LARGEST_FILTERED_SHRINK = 4.0
# A panorama longer than this loses its ends before it is resized: they would be cut anyway, and
# a strip one pixel high would grow to gigabytes.
_LONGEST_RATIO = 8
# Shrink factors are rounded to this step so that few filters are ever computed.
_SHRINK_STEP = 1 / 64


def empty_views(recipe: ViewRecipe, image_size: int, *leading: int) -> dict[str, np.ndarray]:
    """Returns arrays to fill: uint8 [*leading, V, S, S, 3] and, if any, [*leading, n, s, s, 3]."""
    shape = (*leading, recipe.global_crops, image_size, image_size, 3)
    views = {"global": np.empty(shape, np.uint8)}
    if recipe.local_crops:
        shape = (*leading, recipe.local_crops, recipe.local_size, recipe.local_size, 3)
        views["local"] = np.empty(shape, np.uint8)
    return views


def crop_views(
    image: np.ndarray,
    recipe: ViewRecipe,
    image_size: int,
    rng: np.random.Generator,
    out: dict[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Cuts all views of a recipe out of one image: random-resized-crop, and RandAugment if any.

    View v uses the v-th block of a fixed number of draws, global views first, so that a view
    does not depend on how many follow it nor on how many tries another one needed.

    Args:
      image: uint8 [H, W, 3], at least 1 x 1.
      recipe: crop scales, ratio, interpolation, number and size of local crops.
      image_size: S, side of a global view in pixels.
      rng: where the draws come from.
      out: ``empty_views`` to write into.

    Returns:
      {"global": uint8 [V, S, S, 3]} and, when the recipe has n local crops of side s,
      "local": uint8 [n, s, s, 3]; ``out`` where given.
    """
    views = empty_views(recipe, image_size) if out is None else out
    plan = [(view, recipe.crop_scale) for view in views["global"]]
    if recipe.local_crops:
        plan += [(view, recipe.local_crop_scale) for view in views["local"]]
    draws = rng.random((len(plan), _CROP_TRIES * 4)).tolist()
    height, width = image.shape[:2]
    for (view, scale), block in zip(plan, draws, strict=True):
        top, left, rows, columns = _crop_box(
            height, width, scale, recipe.crop_ratio, block, clamp=recipe.clamp_crop
        )
        crop = image[top : top + rows, left : left + columns]
        resize(crop, *view.shape[:2], recipe.interpolation, out=view)
        if recipe.rand_augment:
            view[...] = rand_augment(view, recipe.rand_augment, rng)
    return views


def random_crop_box(
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[int, int, int, int]:
    """Draws (top, left, rows, columns) as torchvision's ``RandomResizedCrop.get_params`` does.

    Args:
      height: of the image, in pixels.
      width: of the image, in pixels.
      scale: area of the crop as a share of the image's, (lowest, highest), drawn uniformly.
      ratio: width / height of the crop, (lowest, highest), drawn log-uniformly.
      rng: where the draws come from.
    """
    return _crop_box(height, width, scale, ratio, rng.random(_CROP_TRIES * 4).tolist())


def _crop_box(
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    draws: list[float],
    *,
    clamp: bool = False,
) -> tuple[int, int, int, int]:
    area = height * width
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    for start in range(0, _CROP_TRIES * 4, 4):
        for_area, for_ratio, for_top, for_left = draws[start : start + 4]
        target_area = area * (scale[0] + (scale[1] - scale[0]) * for_area)
        aspect = math.exp(log_low + (log_high - log_low) * for_ratio)
        columns = round(math.sqrt(target_area * aspect))
        rows = round(math.sqrt(target_area / aspect))
        if clamp:
            columns, rows = (min(max(x, 1), y) for x, y in ((columns, width), (rows, height)))
        if 0 < columns <= width and 0 < rows <= height:
            top = int(for_top * (height - rows + 1))
            left = int(for_left * (width - columns + 1))
            return top, left, rows, columns
    # No draw fitted: the largest centred crop whose ratio is allowed.
    rows, columns = height, width
    if width / height < ratio[0]:
        rows = round(width / ratio[0])
    elif width / height > ratio[1]:
        columns = round(height * ratio[1])
    return (height - rows) // 2, (width - columns) // 2, rows, columns


# Share of the short side: resized to 256, cut to 224, in the same proportion at any size.
CENTRE_CROP = 224 / 256


def centre_view(
    image: np.ndarray,
    image_size: int,
    *,
    crop_ratio: float = CENTRE_CROP,
    interpolation: str = "bicubic",
) -> np.ndarray:
    """Resizes the short side to ``image_size / crop_ratio`` and cuts the centre.

    The validation transform of the field.

    Args:
      image: uint8 [H, W, 3].
      image_size: S, side of the view in pixels.
      crop_ratio: share of the short side that is kept.
      interpolation: "bicubic" or "bilinear".

    Returns:
      uint8 [S, S, 3].
    """
    image = _without_far_ends(image)
    height, width = image.shape[:2]
    short_side = round(image_size / crop_ratio)
    # As torchvision's Resize: the long side is truncated, not rounded.
    rows = max(short_side, int(short_side * height / width)) if height > width else short_side
    columns = max(short_side, int(short_side * width / height)) if width > height else short_side
    resized = resize(image, rows, columns, interpolation)
    top, left = round((rows - image_size) / 2), round((columns - image_size) / 2)
    return np.ascontiguousarray(resized[top : top + image_size, left : left + image_size])


def _without_far_ends(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    rows, columns = min(height, _LONGEST_RATIO * width), min(width, _LONGEST_RATIO * height)
    top, left = (height - rows) // 2, (width - columns) // 2
    return image[top : top + rows, left : left + columns]


def resize(
    image: np.ndarray,
    rows: int,
    columns: int,
    interpolation: str,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Resizes with antialiasing when shrinking, near to Pillow's filters at OpenCV's speed.

    Pillow stretches its filter by the shrink factor; OpenCV does not. Here the image is first
    convolved with a short symmetric filter, fitted so that this filter followed by OpenCV's
    interpolation has the shape of Pillow's stretched one.

    Args:
      image: uint8 [H, W, 3].
      rows: height of the result.
      columns: width of the result.
      interpolation: "bilinear" or "bicubic".
      out: uint8 [rows, columns, 3] to write into.

    Returns:
      uint8 [rows, columns, 3]; ``out`` where given.
    """
    height, width = image.shape[:2]
    middle_rows = min(height, math.ceil(rows * _LARGEST_FILTERED_SHRINK))
    middle_columns = min(width, math.ceil(columns * _LARGEST_FILTERED_SHRINK))
    if (middle_rows, middle_columns) != (height, width):
        image = cv2.resize(image, (middle_columns, middle_rows), interpolation=cv2.INTER_AREA)
        height, width = middle_rows, middle_columns
    if height > rows or width > columns:
        image = cv2.sepFilter2D(
            image,
            -1,
            _shrinking_filter(round(width / columns / _SHRINK_STEP), interpolation),
            _shrinking_filter(round(height / rows / _SHRINK_STEP), interpolation),
            borderType=cv2.BORDER_REPLICATE,
        )
    kernel = cv2.INTER_CUBIC if interpolation == "bicubic" else cv2.INTER_LINEAR
    return cv2.resize(image, (columns, rows), dst=out, interpolation=kernel)


@functools.cache
def _shrinking_filter(shrink_steps: int, interpolation: str) -> np.ndarray:
    """Returns float32 [2 r + 1], the filter that goes before OpenCV's interpolation.

    Least squares over a fine grid: sum_k h_k phi(x - k) is fitted to psi(x / f) / f, where f is
    the shrink factor, phi OpenCV's interpolation kernel and psi Pillow's filter.
    """
    factor = shrink_steps * _SHRINK_STEP
    if factor <= 1:
        return np.ones(1, np.float32)
    if interpolation == "bicubic":
        # Pillow's cubic has a = -0.5, OpenCV's a = -0.75.
        wanted, basis, reach = _cubic(-0.5), _cubic(-0.75), math.ceil(2 * factor) - 1
    else:
        wanted = basis = _triangle
        reach = math.ceil(factor)
    x = np.linspace(0, reach + 2, 64 * (reach + 2) + 1)
    pairs = [basis(x)] + [basis(x - k) + basis(x + k) for k in range(1, reach + 1)]
    half, *_ = np.linalg.lstsq(np.stack(pairs, axis=1), wanted(x / factor) / factor, rcond=None)
    full = np.concatenate([half[:0:-1], half])
    return (full / full.sum()).astype(np.float32)


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(0, 1 - np.abs(x))


def _cubic(a: float):
    """Returns Keys' cubic convolution kernel with parameter ``a``."""

    def kernel(x: np.ndarray) -> np.ndarray:
        x = np.abs(x)
        inner = ((a + 2) * x - (a + 3)) * x * x + 1
        outer = a * (((x - 5) * x + 8) * x - 4)
        return np.where(x < 1, inner, np.where(x < 2, outer, 0))

    return kernel
