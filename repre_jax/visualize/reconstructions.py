"""Reconstructions beside their inputs."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot

from repre_jax.methods.picture import Picture


def save_reconstructions(images: np.ndarray, picture: Picture, space: str, path: Path) -> None:
    """Draws a row an image and saves a PNG.

    Its columns are input | what the encoder saw, where something was hidden from it |
    reconstruction | mean absolute error where something was reconstructed.

    Args:
      images: float32 [n, H, W, 3] in [0, 1].
      picture: of them; what is reconstructed is clipped to [0, 1] for display only.
      space: of the targets, for the title.
      path: where to write it.
    """
    matplotlib.use("agg")
    errors = np.abs(picture.painted - images).mean(axis=-1)  # [n, H, W]
    scale = max(float(np.quantile(errors[picture.hidden], 0.99)), 1e-6)
    columns = {"input": images}
    if not np.array_equal(picture.seen, images):
        columns["seen by the encoder"] = picture.seen
    columns["reconstruction"] = np.clip(picture.painted, 0, 1)
    rows, count = len(images), len(columns) + 1
    size = (2.07 * count, 1.75 * rows + 0.7)
    figure, axes = pyplot.subplots(rows, count, figsize=size, squeeze=False, layout="constrained")
    figure.suptitle(f"Target: {space}", fontsize=9)
    for row in range(rows):
        for axis, (title, shown) in zip(axes[row], columns.items(), strict=False):
            axis.imshow(shown[row])
            axis.set_title(title if row == 0 else "", fontsize=10)
        last, hidden = axes[row, -1], picture.hidden[row]
        error = np.ma.masked_where(~hidden, errors[row])
        drawn = last.imshow(error, cmap="magma", vmin=0, vmax=scale)
        last.set_title("absolute error" if row == 0 else "", fontsize=10)
        last.set_ylabel(f"mean {errors[row][hidden].mean():.3f}", fontsize=8)
        last.yaxis.set_label_position("right")
        for axis in axes[row]:
            axis.set_xticks([])
            axis.set_yticks([])
    figure.colorbar(drawn, ax=axes[:, -1], shrink=0.6, label="of the pixel range")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
