"""What the views of one image look like: the numbers of a paper's augmentation, nothing else."""

import dataclasses

# Whose photometric operators.
TORCHVISION, SIMCLR, BYOL = FAMILIES = ("torchvision", "simclr", "byol")


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """Numbers of RandAugment.

    Attributes:
      operators: applied one after the other, each drawn from all, and each left out with a
        probability of one half; 0 for no RandAugment.
      magnitude: mean of the strength, which is drawn anew each time and kept within 0 to 10.
      deviation: its standard deviation.
    """

    operators: int = 2
    magnitude: float = 9.0
    deviation: float = 0.5


@dataclasses.dataclass(frozen=True)
class ViewRecipe:
    """Global views (two, as a rule) and ``local_crops`` small ones, cut from one decoded image.

    Geometry (crop, resize) is done on the host by ``data/host/crops.py``; flip and everything
    photometric on the device by ``data/device/augment.py``, in the order of the fields below.
    Pairs give global view 1 and view 2; every local crop uses ``local_blur_probability`` and no
    solarisation. View 1 is the one that RePre reconstructs.

    Attributes:
      crop_scale: area of a global crop as a share of the image, (lowest, highest).
      crop_ratio: aspect ratio width / height of a crop, drawn log-uniformly, (lowest, highest).
      interpolation: "bilinear" or "bicubic", antialiased when shrinking.
      global_crops: number of global views; the pairs below have so many entries.
      clamp_crop: a crop that would be larger than the image is cut down to it, as MAE does
        (facebookresearch/mae, util/crop.py), and not drawn again, as torchvision does.
      local_crops: number of local crops; 0 for methods without multi-crop.
      local_size: side of a local crop in pixels.
      local_crop_scale: as ``crop_scale``, for local crops.
      photometric: whose jitter and blur, one of ``FAMILIES``; see ``data/device/photometric.py``.
      flip_probability: horizontal flip.
      jitter: strengths of brightness, contrast, saturation (factor ~ U(max(0, 1-s), 1+s)) and
        hue (shift ~ U(-s, s) turns), applied in random order.
      jitter_probability: probability of the four jitter operators together.
      grey_probability: conversion to grey, weights .299 / .587 / .114.
      blur_probability: Gaussian blur for (view 1, view 2).
      blur_sigma: standard deviation in pixels ~ U(lowest, highest).
      solarise_probability: x -> 1 - x where x >= 128/255, for (view 1, view 2).
      local_blur_probability: Gaussian blur for local crops.
      rand_augment: 8-bit operators on every view, on the host, straight after the crop.
    """

    crop_scale: tuple[float, float]
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bicubic"
    global_crops: int = 2
    clamp_crop: bool = False
    local_crops: int = 0
    local_size: int = 96
    local_crop_scale: tuple[float, float] = (0.05, 0.4)
    photometric: str = TORCHVISION
    flip_probability: float = 0.5
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    jitter_probability: float = 0.8
    grey_probability: float = 0.2
    blur_probability: tuple[float, ...] = (1.0, 0.1)
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarise_probability: tuple[float, ...] = (0.0, 0.2)
    local_blur_probability: float = 0.5
    rand_augment: RandAugment | None = None


# Of the recipes whose one view is cropped and flipped, no more.
ONE_PLAIN_VIEW = {
    "global_crops": 1,
    "jitter_probability": 0.0,
    "grey_probability": 0.0,
    "blur_probability": (0.0,),
    "solarise_probability": (0.0,),
}
