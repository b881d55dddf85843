"""What a run shows while it goes: a bar on a terminal, a line now and then elsewhere."""

import contextlib
import datetime
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TextIO

import jax
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

_PERCENT_PER_LINE = 5
_SECONDS_UNTOLD = 5.0

# metric, its short name, its format; shown in this order when present
_SHOWN = (
    ("loss", "loss", "{:.4f}"),
    ("loss/contrast", "contrast", "{:.4f}"),
    ("loss/reconstruct", "reconstruct", "{:.4f}"),
    ("weight/contrast", "weight c", "{:.3g}"),
    ("weight/reconstruct", "weight r", "{:.3g}"),
    ("learning_rate", "lr", "{:.2e}"),
    ("grad_norm", "grad norm", "{:.3g}"),
    ("feature_std", "feature std", "{:.4f}"),
    ("effective_rank", "rank", "{:.1f}"),
    ("teacher_entropy", "teacher entropy", "{:.3f}"),
    ("knn/top1", "k-NN", "{:.1%}"),
    ("val/top1", "top-1", "{:.1%}"),
    ("val/mean_iou", "mIoU", "{:.1%}"),
    ("val/box_AP", "box AP", "{:.1%}"),
    ("val/mask_AP", "mask AP", "{:.1%}"),
    ("images_per_second", "images/s", "{:,.0f}"),
    ("input_bound", "input bound", "{:.0%}"),
)


class ProgressDisplay:
    """Progress of a run from ``start_step`` to ``total_steps``."""

    def __init__(self, *, start_step: int, total_steps: int, stream: TextIO | None = None):
        """Draws the bar when ``stream`` (standard output) is a terminal."""
        self._total_steps = total_steps
        self._stream = stream or sys.stdout
        self._printed_percent = _PERCENT_PER_LINE * (self._percent(start_step) // _PERCENT_PER_LINE)
        self._live: Live | None = None
        if not self._stream.isatty():
            return
        self._text = Text("compiling ...", style="dim")
        self._bar = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:.0f} %  {task.fields[left]}"),
            expand=True,
        )
        self._task = self._bar.add_task("", total=total_steps, completed=start_step, left="")
        self._live = Live(
            Group(self._bar, self._text),
            console=Console(file=self._stream),
            refresh_per_second=4,
        )
        self._live.start()

    def update(self, step: int, metrics: Mapping[str, float], seconds_left: float | None) -> None:
        """Shows the newest metrics.

        Args:
          step: steps done.
          metrics: some of them are shown; the keys are those of metrics.jsonl.
          seconds_left: estimate, None while there is none.
        """
        left = "" if seconds_left is None else f"{_hours(seconds_left)} left"
        shown = metrics_line(metrics)
        if self._live is not None:
            self._bar.update(self._task, completed=step, left=left)
            self._text.plain = shown
            return
        percent = self._percent(step)
        if percent < self._printed_percent + _PERCENT_PER_LINE and step < self._total_steps:
            return
        self._printed_percent = _PERCENT_PER_LINE * (percent // _PERCENT_PER_LINE)
        head = f"step {step}/{self._total_steps} ({percent} %)" + (f", {left}" if left else "")
        self.say(f"{head}: {shown}")

    def say(self, sentence: str) -> None:
        """Prints a line above the bar."""
        if self._live is not None:
            self._live.console.print(sentence, markup=False, highlight=False)
        else:
            print(sentence, file=self._stream, flush=True)

    def close(self) -> None:
        """Leaves the bar as it stands and gives the terminal back."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _percent(self, step: int) -> int:
        return 100 * step // max(self._total_steps, 1)


@contextlib.contextmanager
def counted_on_screen(total: int, what: str) -> Iterator[Callable[[], None]]:
    """Shows how far a measurement is: a function to be called after every one of ``total``.

    Nothing is shown by other processes than the first, nor of what is over in seconds.
    """
    done, started, display = 0, time.monotonic(), None

    def advance() -> None:
        nonlocal done, display
        done += 1
        seconds = time.monotonic() - started
        if display is None and seconds > _SECONDS_UNTOLD and jax.process_index() == 0:
            display = ProgressDisplay(start_step=done - 1, total_steps=total)
            display.say(f"{total:,} {what}")
        if display is not None:
            display.update(done, {}, seconds / done * (total - done))

    try:
        yield advance
    finally:
        if display is not None:
            display.close()


def metrics_line(metrics: Mapping[str, float]) -> str:
    """The metrics worth a glance, on one line."""
    return " | ".join(
        f"{name} {layout.format(metrics[key])}" for key, name, layout in _SHOWN if key in metrics
    )


def _hours(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
