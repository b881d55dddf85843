"""A run in plain sentences: how far it came, what it learnt, what was wrong; nothing unmeasured."""

import datetime
import math
from typing import NamedTuple

import numpy as np

from repre_jax.visualize.report.recorded import Curve, RecordedRun

_INPUT_BOUND = 0.1  # share of the time above which faster input is worth the trouble


class Finding(NamedTuple):
    """A sentence, and whether it is a reason to worry."""

    sentence: str
    worrying: bool = False


def verdict(run: RecordedRun) -> list[Finding]:
    """What can be said of a run, most important first."""
    found = [_progress(run), _loss(run), _collapse(run), _knn(run), _few_label(run)]
    found += [_input(run), _skipped(run)]
    if run.bad_files:
        found.append(Finding(f"{_counted(len(run.bad_files), 'file')} could not be read.", True))
    return [finding for finding in found if finding]


def _progress(run: RecordedRun) -> Finding:
    if run.summary:
        took = run.summary.get("wall_seconds", run.wall_seconds)
        return Finding(f"Finished: {_counted(run.last_step, 'step')} in {_duration(took)}.")
    if not run.last_step:
        return Finding("Not finished: no step is logged yet.", True)
    total = run.total_steps
    whole = f" of {total:,} steps ({run.last_step / total:.0%})" if total else " steps"
    return Finding(f"Not finished: {run.last_step:,}{whole} are logged.", True)


def _loss(run: RecordedRun) -> Finding | None:
    """Of each loss by itself: the weighted total moves with its weights, too."""
    parts = sorted(key for key in run.curves if key.startswith("loss/"))
    told = []
    for key in parts or [key for key in ("loss",) if key in run.curves]:
        curve = run.curves[key].finite
        if len(curve.values) < 2:
            continue
        first, last, noise = _ends(curve)
        moved = abs(last - first) > noise
        verb = "did not leave its noise" if not moved else "fell" if last < first else "rose"
        name = f"{key.removeprefix('loss/')} loss" if parts else "loss"
        told.append(f"the {name} {verb} ({first:.3g} to {last:.3g})")
    # No reason to worry by itself: DINO's rises where its teacher becomes less sharp.
    return Finding(_sentence(told)) if told else None


def _ends(curve: Curve) -> tuple[float, float, float]:
    """Means of the first and of the last tenth of the rows, and how far single rows scatter."""
    count = max(1, len(curve.values) // 10)
    first, last = curve.values[:count], curve.values[-count:]
    # From one row to the next, for a steep fall within the first tenth is no noise.
    scatter = [np.diff(part).std() / math.sqrt(2) if count > 2 else 0.0 for part in (first, last)]
    return float(first.mean()), float(last.mean()), math.hypot(*scatter)


def _collapse(run: RecordedRun) -> Finding | None:
    if run.collapse is None:
        return None
    if run.collapse:
        return Finding(run.collapse, True)
    rank, std = run.last("effective_rank"), run.last("feature_std")
    return Finding(
        f"The features have not collapsed (effective rank {rank:.1f}, std {std:.2g} at the end)."
    )


def _knn(run: RecordedRun) -> Finding | None:
    curve = run.curves["knn/top1"].finite if "knn/top1" in run.curves else None
    if curve is None or not len(curve.values):
        return Finding("No k-NN was measured.")
    first, last = curve.values[0], curve.values[-1]
    images = run.images.get("val", {}).get("images")
    error = ""
    if images:
        error = f"; one standard error is {100 * math.sqrt(last * (1 - last) / images):.1f} points"
    if len(curve.values) == 1:
        return Finding(f"k-NN top-1 is {last:.1%} (step {curve.steps[0]:,}{error}).")
    return Finding(
        f"k-NN top-1 went from {first:.1%} (step {curve.steps[0]:,}) to {last:.1%} "
        f"(step {curve.steps[-1]:,}{error}).",
        bool(last < first),
    )


def _few_label(run: RecordedRun) -> Finding | None:
    values = [(run.summary or {}).get(f"few_label/{x}") for x in ("trained", "random", "pixels")]
    if not all(isinstance(value, float) for value in values):
        return None
    trained, random, pixels = values
    return Finding(
        f"From few labels the encoder reaches {trained:.1%}, before training {random:.1%}, raw "
        f"pixels {pixels:.1%}.",
        trained < max(random, pixels),
    )


def _input(run: RecordedRun) -> Finding | None:
    # The first row has the compilation in it.
    shares = run.curves["input_bound"].finite.values[1:] if "input_bound" in run.curves else ()
    if not len(shares):
        return None
    share = float(np.median(shares))
    bound = share > _INPUT_BOUND
    advice = "the input is too slow" if bound else "not input-bound"
    return Finding(f"The devices waited for images {share:.0%} of the time: {advice}.", bound)


def _skipped(run: RecordedRun) -> Finding | None:
    skipped = int(run.last("nonfinite_steps") or 0)
    if not skipped:
        return None
    return Finding(f"{_counted(skipped, 'step')} skipped: loss or gradient was not finite.", True)


def _sentence(parts: list[str]) -> str:
    text = ", ".join(parts[:-1]) + " and " * (len(parts) > 1) + parts[-1]
    return f"{text[0].upper()}{text[1:]}."


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
