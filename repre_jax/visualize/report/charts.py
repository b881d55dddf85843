"""Curves as SVG: which belong together, what they are called, how many points are enough."""

import fnmatch
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from repre_jax.visualize.report.elements import Element, element
from repre_jax.visualize.report.recorded import Curve

COLUMNS = 360  # about the pixels of a chart's width
_SIDE = 1000  # of a chart in its own units; the browser stretches it
_LOG_FROM = 200.0  # largest over smallest value from which an axis is logarithmic
_FEW_POINTS = 40  # up to so many are marked one by one

# Group -> patterns of its metrics, in order; a metric is of the first group that takes it.
GROUPS = {
    "Losses": ("loss", "loss/*"),
    "Weights of the losses": ("weight/*",),
    "Accuracy": ("knn/*",),
    "Collapse meters": (
        "feature_std",
        "effective_rank",
        "val/feature_std",
        "val/effective_rank",
        "teacher_entropy",
        "teacher_divergence",
    ),
    "Gradients": ("grad_norm", "encoder_grad_norm/*"),
    "Schedules": ("learning_rate", "weight_decay", "momentum", "teacher_temperature"),
    "Speed": ("images_per_second", "input_bound"),
    "Skipped steps": ("nonfinite_*",),
    "Others": ("*",),
}
# Metric -> (what it is, its unit); "%" shows shares as percentages.
_TITLES = {
    "loss": ("Whole loss", "weighted"),
    "loss/reconstruct": ("Loss: reconstruct", "of the pixel range"),
    "knn/top1": ("k-NN top-1", "%"),
    "knn/top5": ("k-NN top-5", "%"),
    "feature_std": ("Std of the features", "of unit length"),
    "effective_rank": ("Effective rank of the features", "directions"),
    "val/feature_std": ("Std, validation images", "of unit length"),
    "val/effective_rank": ("Effective rank, validation images", "directions"),
    "teacher_entropy": ("Teacher entropy", "nats"),
    "teacher_divergence": ("Divergence of student from teacher", "nats"),
    "grad_norm": ("Gradient norm", "whole loss"),
    "learning_rate": ("Learning rate", ""),
    "momentum": ("Momentum of the target", ""),
    "teacher_temperature": ("Teacher temperature", ""),
    "images_per_second": ("Throughput", "images/s"),
    "input_bound": ("Waiting for input", "% of the time"),
    "nonfinite_steps": ("Steps skipped so far", "steps"),
    "nonfinite_in_a_row": ("Steps skipped in a row", "steps"),
}
_PREFIXES = {
    "loss/": "Loss: ",
    "weight/": "Weight: ",
    "encoder_grad_norm/": "Gradient norm on the encoder: ",
}


class Line(NamedTuple):
    """A curve in a chart: whose it is, by which CSS class that is known, and the curve."""

    name: str
    css: str
    curve: Curve


class Scale(NamedTuple):
    """From values to places between 0 and 1.

    Attributes:
      low, high: values at the two ends.
      logarithmic: whether equal ratios are equally far apart.
    """

    low: float
    high: float
    logarithmic: bool = False

    def place(self, values: np.ndarray) -> np.ndarray:
        """Places of values, 0 for ``low``."""
        low, high, values = self.low, self.high, np.asarray(values, float)
        if self.logarithmic:
            low, high, values = math.log(low), math.log(high), np.log(values)
        return (values - low) / (high - low)

    def ticks(self, count: int) -> list[float]:
        """About so many round values."""
        if self.logarithmic:
            found = LogLocator(numticks=count + 1).tick_values(self.low, self.high)
        else:
            found = MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
        return [float(tick) for tick in found if self.low <= tick <= self.high]


def grouped(metrics: Iterable[str]) -> dict[str, list[str]]:
    """Group -> its metrics; every metric is in one group, and empty groups are left out."""
    left, found = sorted(metrics), {}
    for group, patterns in GROUPS.items():
        for pattern in patterns:
            taken = fnmatch.filter(left, pattern)
            found.setdefault(group, []).extend(taken)
            left = [metric for metric in left if metric not in taken]
    return {group: names for group, names in found.items() if names}


def title(metric: str) -> tuple[str, str]:
    """(what a metric is, its unit), which are its own name and "" where nothing is known of it."""
    if metric in _TITLES:
        return _TITLES[metric]
    for prefix, words in _PREFIXES.items():
        if metric.startswith(prefix):
            return words + metric.removeprefix(prefix), ""
    return metric, ""


def shown(metric: str, value: float) -> str:
    """A value as people read it."""
    if title(metric)[1].startswith("%"):
        return f"{100 * value:.3g} %"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.4g}"


def thinned(curve: Curve, first: int, last: int, columns: int = COLUMNS) -> list[Curve]:
    """The pieces between values that are not finite, each with few points and all its spikes.

    Of the points that share a column of pixels the lowest and the highest are kept, and the ends of
    every piece: what is left out lies between two points that are drawn.

    Args:
      curve: may have any number of points.
      first, last: steps at the two sides of the chart; points beyond are left out.
      columns: into which the chart is divided.
    """
    inside = (curve.steps >= first) & (curve.steps <= last)
    steps, values = curve.steps[inside], curve.values[inside]
    gaps = np.flatnonzero(~np.isfinite(values))
    pieces = []
    for piece in np.split(np.arange(len(steps)), gaps):
        piece = piece[np.isfinite(values[piece])]
        if not len(piece):
            continue
        column = (steps[piece] - first) * columns // max(last - first, 1)
        order = np.lexsort((values[piece], column))
        begins = np.flatnonzero(np.diff(column[order], prepend=-1))
        ends = np.append(begins[1:], len(piece)) - 1
        kept = np.unique(np.concatenate([order[begins], order[ends], [0, len(piece) - 1]]))
        pieces.append(Curve(steps[piece[kept]], values[piece[kept]]))
    return pieces


def chart(metric: str, lines: list[Line], first: int, last: int) -> tuple[Element, dict]:
    """The figure of one metric, and what its script must know to name values.

    Args:
      metric: key of metrics.jsonl.
      lines: its curves, references first, for later ones are drawn over them.
      first, last: steps at the two sides.
    """
    drawn = [(line.css, thinned(line.curve, first, last)) for line in lines]
    values = np.concatenate([[], *(piece.values for _, pieces in drawn for piece in pieces)])
    what, unit = title(metric)
    scale = _scale(metric, values)
    across = Scale(first, max(last, first + 1))
    units = [unit, "logarithmic" if scale.logarithmic else ""]
    caption = element(
        "figcaption", what, element("span", ", ".join(filter(None, units)), class_="unit")
    )
    paths = [_paths(css, pieces, across, scale) for css, pieces in drawn]
    svg = element(
        "svg",
        element("title", what),
        element("desc", _described(metric, lines)),
        [_rule(scale, tick) for tick in scale.ticks(5)],
        paths,
        viewBox=f"0 0 {_SIDE} {_SIDE}",
        preserveAspectRatio="none",
        role="img",
    )
    labels = [
        _label("y", "top", 1 - float(scale.place(tick)), shown(metric, tick))
        for tick in scale.ticks(5)
    ]
    labels += [
        _label("x", "left", float(across.place(tick)), f"{tick:,.0f}")
        for tick in across.ticks(4)
        if across.place(tick) < 0.9 and float(tick).is_integer()
    ]
    labels.append(element("span", "step", class_="x axis"))
    cursor = element("div", class_="cursor")
    plot = element(
        "div",
        svg,
        labels,
        cursor,
        class_="plot",
        role="group",
        aria_label=f"{what}; arrow keys move the cursor",
        tabindex="0",
    )
    figure = element("figure", caption, plot, element("p", class_="readout"), class_="chart")
    points = [
        {
            "name": name,
            "css": css,
            "steps": [int(step) for piece in pieces for step in piece.steps],
            "values": [float(f"{v:.4g}") for piece in pieces for v in piece.values],
        }
        for (name, *_), (css, pieces) in zip(lines, drawn, strict=True)
    ]
    return figure, {"percent": unit.startswith("%"), "lines": points}


def _scale(metric: str, values: np.ndarray) -> Scale:
    if title(metric)[1].startswith("% of"):
        return Scale(0.0, 1.0)
    if not len(values):
        return Scale(0.0, 1.0)
    low, high = float(values.min()), float(values.max())
    if low > 0 and high / low >= _LOG_FROM:
        return Scale(low / 1.1, high * 1.1, logarithmic=True)
    margin = 0.06 * (high - low) or 0.5 * abs(high) or 1.0
    floor = 0.0 if low >= 0 else -math.inf  # no axis below zero for what cannot be negative
    return Scale(max(low - margin, floor), high + margin)


def _paths(css: str, pieces: list[Curve], across: Scale, scale: Scale) -> Iterable[Element]:
    line, dots = [], []
    few = sum(len(piece.steps) for piece in pieces) <= _FEW_POINTS
    for piece in pieces:
        x = np.rint(_SIDE * across.place(piece.steps)).astype(int)
        y = np.rint(_SIDE * (1 - scale.place(piece.values))).astype(int)
        places = [f"{a} {b}" for a, b in zip(x, y, strict=True)]
        line.append("M" + "L".join(places))
        dots += [f"M{place}h0" for place in places if few]
    if line:
        yield element("path", d="".join(line), class_=f"line {css}")
    if dots:
        yield element("path", d="".join(dots), class_=f"dots {css}")


def _rule(scale: Scale, tick: float) -> Element:
    y = round(_SIDE * (1 - float(scale.place(tick))))
    return element("path", d=f"M0 {y}H{_SIDE}", class_="rule")


def _label(kind: str, side: str, place: float, text: str) -> Element:
    return element("span", text, class_=kind, style=f"{side}:{100 * place:.2f}%")


def _described(metric: str, lines: list[Line]) -> str:
    """What a reader without the picture would want to know: where the curves begin and end."""
    told = []
    for line in lines:
        steps, values = line.curve.finite
        if len(steps):
            told.append(
                f"{line.name}: {shown(metric, values[0])} at step {steps[0]:,}, "
                f"{shown(metric, values[-1])} at step {steps[-1]:,}"
            )
    return "; ".join(told) or "Nothing finite was logged."
