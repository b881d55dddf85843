"""Geometry on the host: where the views of an image are cut, and how they are resized."""

import math
import threading
from collections.abc import Iterator

import cv2
import numpy as np
from cykooz_resizer import FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer

from repre_jax.data.host.rand_augment import rand_augment
from repre_jax.data.pixel_format import RGB, PixelFormat
from repre_jax.data.recipes import ViewRecipe
from repre_jax.image_size import ImageSize, height_and_width

# torchvision's RandomResizedCrop gives up after ten draws that do not fit.
_CROP_TRIES = 10
# A panorama longer than this loses its ends before it is resized: they would be cut anyway, and
# a strip one pixel high would grow to gigabytes.
_LONGEST_RATIO = 8
# Catmull and Rom's cubic is the one with a = -0.5, Pillow's; OpenCV's has -0.75 and is sharper.
_FILTERS = {
    name: ResizeOptions(resize_alg=ResizeAlg.convolution(kind))
    for name, kind in (("bilinear", FilterType.bilinear), ("bicubic", FilterType.catmull_rom))
}
# By bytes of a value, and axes of what is resized at once.
_PIXEL_TYPES = {
    (1, 3): PixelType.U8x3,
    (1, 2): PixelType.U8,
    (2, 3): PixelType.U16x3,
    (2, 2): PixelType.U16,
}
_THREAD = threading.local()  # a resizer serves one thread at a time


def empty_views(
    recipe: ViewRecipe, image_size: ImageSize, *leading: int, pixels: PixelFormat = RGB
) -> dict[str, np.ndarray]:
    """Returns arrays to fill: [*leading, V, H, W, C] and, if any, [*leading, n, s, s, C]."""
    size, channels = height_and_width(image_size), pixels.channels
    views = {"global": np.empty((*leading, recipe.global_crops, *size, channels), pixels.dtype)}
    if recipe.local_crops:
        shape = (*leading, recipe.local_crops, recipe.local_size, recipe.local_size, channels)
        views["local"] = np.empty(shape, pixels.dtype)
    return views


def crop_views(
    image: np.ndarray,
    recipe: ViewRecipe,
    image_size: ImageSize,
    rng: np.random.Generator,
    out: dict[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Cuts all views of a recipe out of one image: random-resized-crop, and RandAugment if any.

    View v uses the v-th block of a fixed number of draws, global views first, so that a view
    does not depend on how many follow it nor on how many tries another one needed.

    The ratios of a recipe are distortions: those of a crop on its way into the view. torchvision,
    whose transform takes any size, draws those of the crop itself, which squeezes what goes into a
    rectangle; for squares both are the same.

    Args:
      image: uint8 or uint16 [H, W, C], at least 1 x 1.
      recipe: crop scales, ratio, interpolation, number and size of local crops.
      image_size: of a global view, in pixels.
      rng: where the draws come from.
      out: ``empty_views`` to write into; None for new ones, which are of RGB in 8 bits.

    Returns:
      {"global": [V, H, W, C]} and, when the recipe has n local crops of side s, "local":
      [n, s, s, C], of the image's type; ``out`` where given.
    """
    views = empty_views(recipe, image_size) if out is None else out
    plan = [(view, recipe.crop_scale) for view in views["global"]]
    if recipe.local_crops:
        plan += [(view, recipe.local_crop_scale) for view in views["local"]]
    draws = rng.random((len(plan), _CROP_TRIES * 4)).tolist()
    height, width = image.shape[:2]
    for (view, scale), block in zip(plan, draws, strict=True):
        shape = view.shape[1] / view.shape[0]
        ratio = (recipe.crop_ratio[0] * shape, recipe.crop_ratio[1] * shape)
        top, left, rows, columns = _crop_box(
            height, width, scale, ratio, block, clamp=recipe.clamp_crop
        )
        crop = image[top : top + rows, left : left + columns]
        _fill_view(view, crop, recipe.interpolation)
        if recipe.rand_augment:
            view[...] = rand_augment(view, recipe.rand_augment, rng)
    return views


def _fill_view(view: np.ndarray, crop: np.ndarray, interpolation: str) -> None:
    """Resizes a crop into its view: by ``resize``, or faster where both sides grow.

    There OpenCV takes less time, and training on small images is bound by it. Its linear
    filter is Pillow's; its cubic one, with a = -0.75 in place of -0.5, makes the view of a small
    photograph 4.6 % sharper (sum of the differences between neighbours): 0.9 levels of 255 away
    in the mean, and up to 22 at edges.
    """
    (rows, columns), (height, width) = view.shape[:2], crop.shape[:2]
    if rows < height or columns < width:
        resize(crop, rows, columns, interpolation, out=view)
    else:
        kernel = cv2.INTER_CUBIC if interpolation == "bicubic" else cv2.INTER_LINEAR
        if view.shape[2] == 3:
            cv2.resize(crop, (columns, rows), dst=view, interpolation=kernel)
        else:  # OpenCV drops the axis of a single channel
            larger = cv2.resize(crop, (columns, rows), interpolation=kernel)
            view[...] = larger.reshape(view.shape)


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
    # No draw fitted: the largest centred crop whose ratio is allowed, at least a pixel of a strip.
    rows, columns = height, width
    if width / height < ratio[0]:
        rows = max(1, round(width / ratio[0]))
    elif width / height > ratio[1]:
        columns = max(1, round(height * ratio[1]))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


# Share of the short side: resized to 256, cut to 224, in the same proportion at any size.
CENTRE_CROP = 224 / 256


def centre_view(
    image: np.ndarray,
    image_size: ImageSize,
    *,
    crop_ratio: float = CENTRE_CROP,
    interpolation: str = "bicubic",
) -> np.ndarray:
    """Resizes an image to just cover ``image_size / crop_ratio``, and cuts the centre.

    The validation transform of the field: the short side becomes 256, and 224 of it are kept.

    Args:
      image: uint8 or uint16 [h, w, C].
      image_size: of the view, in pixels.
      crop_ratio: share of the side that is kept.
      interpolation: "bicubic" or "bilinear".

    Returns:
      [H, W, C] of the image's type.
    """
    image = _without_far_ends(image)
    height, width = image.shape[:2]
    view = height_and_width(image_size)
    rows, columns = (round(side / crop_ratio) for side in view)
    # As torchvision's Resize: the side that is not fitted is truncated, not rounded.
    if height * columns > width * rows:
        rows = max(rows, int(columns * height / width))
    else:
        columns = max(columns, int(rows * width / height))
    resized = resize(image, rows, columns, interpolation)
    top, left = round((rows - view[0]) / 2), round((columns - view[1]) / 2)
    return np.ascontiguousarray(resized[top : top + view[0], left : left + view[1]])


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
    """Resizes with Pillow's filters, which are stretched by the factor where they shrink.

    Equal to ``PIL.Image.resize`` up to the order of the two passes, between which both round and
    cut off at 0 and 255.

    Args:
      image: uint8 or uint16 [H, W, C].
      rows: height of the result.
      columns: width of the result.
      interpolation: "bilinear" or "bicubic".
      out: [rows, columns, C] to write into.

    Returns:
      [rows, columns, C] of the image's type; ``out`` where given.
    """
    height, width, channels = image.shape
    if not hasattr(_THREAD, "resizer"):
        _THREAD.resizer = Resizer()
    out = np.empty((rows, columns, channels), image.dtype) if out is None else out
    for part, resized in _parts(image, out):
        kind = _PIXEL_TYPES[image.dtype.itemsize, part.ndim]
        target = ImageData(columns, rows, kind)
        _THREAD.resizer.resize(
            ImageData(width, height, kind, part.tobytes()), target, _FILTERS[interpolation]
        )
        resized[...] = np.frombuffer(target.get_buffer(), image.dtype).reshape(resized.shape)
    return out


def _parts(image: np.ndarray, out: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of what libraries resize at once: three channels together, or one [H, W] by itself."""
    if image.shape[2] == 3:
        yield image, out
        return
    for channel in range(image.shape[2]):
        yield image[..., channel], out[..., channel]
