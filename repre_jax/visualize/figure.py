"""Grids of panels, saved as PNG: 1,000 pixels wide, so that 800 are still legible.

Colours are told apart by the colour-blind too: viridis for maps, those of Okabe and Ito for classes
(https://jfly.uni-koeln.de/color/).
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text

from repre_jax.runs.folder import written_whole

OKABE_ITO = (
    "#0072B2",  # blue
    "#E69F00",  # orange
    "#009E73",  # bluish green
    "#D55E00",  # vermilion
    "#56B4E9",  # sky blue
    "#CC79A7",  # reddish purple
    "#000000",
    "#F0E442",  # yellow
)
MAPS = "viridis"
WIDTH = 8.0  # inches, of which each has DPI pixels
DPI = 125
MOST_COLUMNS = 8
_LARGEST_PANEL = 1.9  # inches
_NARROWEST = 4.5  # inches, for the title's sake


class Panel(NamedTuple):
    """One picture of a grid.

    Attributes:
      pixels: [H, W, C], levels or floats in [0, 1]; or a map [h, w], drawn in viridis.
      title, caption: above and below.
      limits: of a map's colours; None for its own extremes.
      frame: colour around the panel; empty for none.
    """

    pixels: np.ndarray
    title: str = ""
    caption: str = ""
    limits: tuple[float, float] | None = None
    frame: str = ""


def save_grid(
    path: Path,
    title: str,
    rows: Sequence[Sequence[Panel | None]],
    row_names: Sequence[str] = (),
) -> None:
    """Draws rows of panels, None for a free place, and saves them.

    What is beyond eight columns goes below, all rows once more.

    Args:
      path: of the PNG.
      title: above everything; long ones are wrapped.
      rows: as long as the longest, or shorter.
      row_names: at the left of rows; fewer for none.

    Raises:
      UserError: disk full or no permission.
    """
    columns = max(map(len, rows))
    named = [*row_names, *[""] * (len(rows) - len(row_names))]
    starts = range(0, columns, MOST_COLUMNS)
    rows = [row[start : start + MOST_COLUMNS] for start in starts for row in rows]
    columns, row_names = min(columns, MOST_COLUMNS), named * len(starts)
    names = 0.4 * any(row_names)
    side = min((WIDTH - names) / columns, _LARGEST_PANEL)
    width = max(columns * side + names, _NARROWEST)
    words = 0.2 * sum(any(p and p.title for p in row) for row in rows)
    words += 0.2 * sum(any(p and p.caption for p in row) for row in rows)
    title = wrapped(title, width)
    tallest = max(p.pixels.shape[0] / p.pixels.shape[1] for row in rows for p in row if p)
    height = len(rows) * side * tallest + words + 0.2 * (1 + title.count("\n"))
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    figure.suptitle(title, fontsize=9)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for k, row in enumerate(rows):
        for axis, panel in zip(axes[k], [*row, *[None] * (columns - len(row))], strict=True):
            _draw(axis, panel)
        axes[k, 0].set_ylabel(row_names[k], fontsize=8)
    save(figure, path)


def image_panels(images: Sequence[np.ndarray]) -> list[Panel]:
    """A row of images, each [H, W, C]."""
    return [Panel(image) for image in images]


def as_colours(image: np.ndarray) -> np.ndarray:
    """[H, W, C], levels or floats in [0, 1] -> uint8 or floats [H, W, 3].

    One channel is shown as grey; of more than three, the first three as red, green and blue; the
    third of two is black.
    """
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    if image.shape[2] == 1:
        return np.repeat(image, 3, axis=2)
    missing = max(0, 3 - image.shape[2])
    return np.pad(image[..., :3], ((0, 0), (0, 0), (0, missing)))


def save(figure: Figure, path: Path) -> None:
    """Writes a figure whole or not at all, with the same bytes for the same picture.

    Its texts are shown as they are: names with two "$" are no formulas.

    Raises:
      UserError: disk full or no permission.
    """
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with written_whole(path) as unfinished:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(unfinished, dpi=DPI, format="png", metadata={"Software": None})


def wrapped(title: str, width: float) -> str:
    """A title in lines that fit ``width`` inches."""
    return textwrap.fill(title, int(width * 14))


def _draw(axis, panel: Panel | None) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    if panel is None:
        axis.set_frame_on(False)
        return
    for spine in axis.spines.values():  # thin ones, too, or what is white has no end
        spine.set_linewidth(2.5 if panel.frame else 0.4)
        spine.set_color(panel.frame or "0.6")
    low, high = panel.limits or (None, None)
    pixels = as_colours(panel.pixels) if panel.pixels.ndim == 3 else panel.pixels
    axis.imshow(pixels, cmap=MAPS, vmin=low, vmax=high, interpolation="nearest")
    axis.set_title(panel.title, fontsize=8, pad=2)
    axis.set_xlabel(panel.caption, fontsize=8, labelpad=2)
