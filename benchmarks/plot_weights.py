"""Which loss moves the encoder: weights and gradient norms over a run, learned beside converged.

    python -m benchmarks.plot_weights benchmarks/results/imagenette_cpu dino

Draws rows of ``imagenette``'s results into ``<folder>_weights_<method>.png`` beside the folder.
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot

LOSSES = {"contrast": "tab:blue", "reconstruct": "tab:orange"}
_ROWS = ("learned", "converged")


def draw_weights(result: Path, method: str) -> Path:
    """Draws weights, gradient norms and their products for one method.

    Args:
      result: folder of ``benchmarks.imagenette`` that has the rows "learned" and "converged".
      method: the method.

    Returns:
      Path of the PNG.
    """
    matplotlib.use("agg")
    rows = {row: json.loads((result / f"{method}-{row}.json").read_text()) for row in _ROWS}
    titles = {
        "weight": "weight of the loss",
        "norm": "gradient norm on the encoder, unweighted",
        "product": "weight x gradient norm",
    }
    figure, axes = pyplot.subplots(
        len(_ROWS), len(titles), figsize=(11, 5.4), sharex=True, sharey="col", layout="constrained"
    )
    for row, line in zip(_ROWS, axes, strict=True):
        for (quantity, title), axis in zip(titles.items(), line, strict=True):
            for loss, colour in LOSSES.items():
                steps, values = _curve(rows[row]["curves"], quantity, loss)
                axis.plot(steps, values, color=colour, label=loss)
            axis.set_yscale("log")
            axis.grid(alpha=0.3)
            if row == _ROWS[0]:
                axis.set_title(title, fontsize=10)
            else:
                axis.set_xlabel("step")
        line[0].set_ylabel(f"{row} (k-NN {rows[row]['knn_top1']:.1%})")
    axes[0, 0].legend()
    figure.suptitle(method)
    path = result.with_name(f"{result.name}_weights_{method}.png")
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
    return path


def can_be_drawn(row: dict[str, Any] | None) -> bool:
    """Whether a row is there and logged each loss's gradient norm."""
    return row is not None and all(f"encoder_grad_norm/{x}" in row["curves"] for x in LOSSES)


def _curve(
    curves: dict[str, list[Any]], quantity: str, loss: str
) -> tuple[list[float], list[float]]:
    """Steps and values where both weight and norm were logged."""
    columns = (curves["step"], curves[f"weight/{loss}"], curves[f"encoder_grad_norm/{loss}"])
    points = [point for point in zip(*columns, strict=True) if None not in point]
    choose = {
        "weight": lambda weight, norm: weight,
        "norm": lambda weight, norm: norm,
        "product": lambda weight, norm: weight * norm,
    }[quantity]
    return [step for step, _, _ in points], [choose(weight, norm) for _, weight, norm in points]


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    print(draw_weights(Path(sys.argv[1]), sys.argv[2]))
