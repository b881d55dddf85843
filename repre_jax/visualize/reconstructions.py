"""RePre's reconstructions beside their inputs."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot


def save_reconstructions(images: np.ndarray, reconstructions: np.ndarray, path: Path) -> None:
    """Draws a row an image: input | reconstruction | mean absolute error, and saves a PNG.

    Args:
      images: float32 [n, H, W, 3] in [0, 1].
      reconstructions: float32 of the same shape; clipped to [0, 1] for display only.
      path: where to write it.
    """
    matplotlib.use("agg")
    errors = np.abs(reconstructions - images).mean(axis=-1)  # [n, H, W]
    scale = max(float(np.quantile(errors, 0.99)), 1e-6)
    rows = len(images)
    figure, axes = pyplot.subplots(
        rows, 3, figsize=(6.2, 1.75 * rows + 0.4), squeeze=False, layout="constrained"
    )
    titles = ("input", "reconstruction", "absolute error")
    for row, (image, reconstruction, error) in enumerate(
        zip(images, np.clip(reconstructions, 0, 1), errors, strict=True)
    ):
        axes[row, 0].imshow(image)
        axes[row, 1].imshow(reconstruction)
        shown = axes[row, 2].imshow(error, cmap="magma", vmin=0, vmax=scale)
        axes[row, 2].set_ylabel(f"mean {error.mean():.3f}", fontsize=8)
        axes[row, 2].yaxis.set_label_position("right")
        for column, axis in enumerate(axes[row]):
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 0:
                axis.set_title(titles[column], fontsize=10)
    figure.colorbar(shown, ax=axes[:, 2], shrink=0.6, label="of the pixel range")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
