"""Pictures of what pixels were taken for: image | classes | prediction | error."""

from pathlib import Path

import numpy as np

from repre_jax.data.segmentation.label_maps import VOID
from repre_jax.evaluation.pictures import save_picture

_GAP = 4
_VOID = (255, 255, 255)
_RIGHT, _WRONG = (40, 40, 40), (230, 60, 40)


def save_comparisons(
    folder: Path,
    images: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    colours: np.ndarray,
    *,
    first: int,
    most: int,
) -> int:
    """Draws images [n, H, W, 3] until there are ``most`` pictures; returns how many there are now.

    Args:
      folder: of the evaluation.
      images, labels, predictions, colours: as in ``save_comparison``, one picture a row.
      first: pictures that there are.
      most: of them.
    """
    rows = list(zip(images, labels, predictions, strict=True))[: max(most - first, 0)]
    for number, row in enumerate(rows, start=first):
        save_comparison(picture_path(folder, number), *row, colours)
    return first + len(rows)


def picture_path(folder: Path, number: int) -> Path:
    """Of the picture of a number."""
    return folder / "figures" / f"prediction-{number:02d}.png"


def save_comparison(
    path: Path,
    image: np.ndarray,
    labels: np.ndarray,
    prediction: np.ndarray,
    colours: np.ndarray,
) -> None:
    """Writes a PNG of four panels side by side; pixels without a class are white.

    Args:
      path: of the picture.
      image: uint8 [H, W, 3].
      labels, prediction: classes uint8 [H, W], ``VOID`` for none.
      colours: uint8 [C, 3].

    Raises:
      UserError: disk full or no permission.
    """
    known = labels != VOID
    error = np.where((labels == prediction)[..., None], _RIGHT, _WRONG)
    error = np.where(known[..., None], error, _VOID).astype(np.uint8)
    panels = [image, coloured(labels, colours), coloured(prediction, colours), error]
    gap = np.full((len(image), _GAP, 3), 255, np.uint8)
    row = np.concatenate([part for panel in panels for part in (panel, gap)][:-1], axis=1)
    save_picture(path, row)


def coloured(classes: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Classes uint8 [H, W] in their colours, uint8 [H, W, 3]."""
    table = np.full((VOID + 1, 3), _VOID, np.uint8)
    table[: len(colours)] = colours
    return table[classes]
