"""The metrics of a run as it goes: to files and services, progress, summary, bad files."""

import contextlib
import math
import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import jax

from repre_jax.data.sources.source import Source
from repre_jax.runs.destinations import (
    Destination,
    MetricsFile,
    TensorBoard,
    drop_rows_after,
    finite,
)
from repre_jax.runs.disk_errors import disk_trouble_told
from repre_jax.runs.folder import RunFolder
from repre_jax.runs.nonfinite import note_nonfinite
from repre_jax.runs.progress import ProgressDisplay
from repre_jax.runs.trackers import open_trackers

_RATE = "images_per_second"


class RunLogs:
    """Writes and shows the metrics of one run; other processes than the primary list bad files.

    A resumed run goes on from its checkpoint's step, so rows of later steps, which will be made
    again, are removed first. Log a step before its checkpoint is saved: a row once missing behind
    a checkpoint would never be made again.

    Attributes:
      metrics_before: those of the row of the step that a resumed run goes on from; empty when that
        step was not logged.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        start_step: int,
        total_steps: int,
        batch_size: int,
        primary: bool = True,
        trackers: Mapping[str, str] | None = None,
        stream: TextIO | None = None,
    ):
        """Opens the logs of ``folder``.

        Args:
          folder: of the run.
          start_step: steps done so far, 0 for a new run.
          total_steps: of the whole run.
          batch_size: images of a step, over all devices.
          primary: whether this process writes and shows.
          trackers: services that get the rows as well, of ``trackers.chosen_trackers``.
          stream: where progress goes, standard output unless given.

        Raises:
          UserError: the files cannot be written.
        """
        self._folder = folder
        self._total_steps = total_steps
        self._batch_size = batch_size
        self._primary = primary
        self._step = start_step
        self._rates: list[float] = []
        self._rates_before: list[float] = []
        self._waited = 0.0
        self._started = self._interval_started = time.perf_counter()
        self._paused_seconds = 0.0
        self._first_logged: tuple[int, float] | None = None
        self._wall_seconds_before = 0.0
        self._bad_files: set[str] = set()
        self._destinations: list[Destination] = []
        self._finished = False
        self.metrics_before: dict[str, float] = {}
        if not primary:
            return
        with disk_trouble_told(folder.path):
            rows = drop_rows_after(folder.metrics_path, start_step)
            self._recall(rows, start_step)
            self._destinations = [
                MetricsFile(folder.metrics_path),
                TensorBoard(folder.tensorboard, start_step),
            ]
            self._bad_files = _bad_files(folder.bad_files_path)
        self._display = ProgressDisplay(
            start_step=start_step, total_steps=total_steps, stream=stream
        )
        self._destinations += open_trackers(trackers or {}, folder, rows, self.say)

    @property
    def wall_seconds(self) -> float:
        """Seconds that the run has taken, earlier parts up to their last logged row included."""
        return self._wall_seconds_before + time.perf_counter() - self._started

    @property
    def images_per_second(self) -> float | None:
        """Median over the log intervals of this process, the first, which compiles, left out.

        Where this process made no step, over those of the ones before.
        """
        rates = self._rates[1:] or self._rates or self._rates_before[1:] or self._rates_before
        return statistics.median(rates) if rates else None

    @property
    def bad_file_count(self) -> int:
        """Number of different files that no process could read so far."""
        return len(_bad_files(self._folder.bad_files_path))

    def log(self, step: int, metrics: Mapping[str, float], *, waited_seconds: float) -> None:
        """Writes one row and shows it; adds ``images_per_second``, ``input_bound``, wall time.

        Args:
          step: steps done; where no step was made since the last call, as for an evaluation that
            follows the last step, there is no speed to add.
          metrics: name -> number, fetched from the device, so that the steps really are done.
          waited_seconds: that the loop has waited for input since this process began.

        Raises:
          UserError: disk full or no permission.
        """
        now = time.perf_counter()
        row = {key: float(value) for key, value in metrics.items()} | {"step": step}
        if step > self._step:
            seconds = max(now - self._interval_started - self._paused_seconds, 1e-9)
            rate = (step - self._step) * self._batch_size / seconds
            self._rates.append(rate)
            row["images_per_second"] = rate
            row["input_bound"] = min(1.0, max(0.0, waited_seconds - self._waited) / seconds)
            self._waited, self._step = waited_seconds, step
            self._interval_started, self._paused_seconds = now, 0.0
        row["wall_seconds"] = self.wall_seconds
        self._first_logged = self._first_logged or (step, now)
        if self._primary:
            for destination in self._destinations:
                destination.write(row)
            self._display.update(step, row, self._seconds_left(step, now))

    def take_back(self, step: int) -> None:
        """Drops the row of ``step``, which a stop has left and the uninterrupted run does not have.

        Raises:
          UserError: disk full or no permission.
        """
        for destination in self._destinations:
            if isinstance(destination, MetricsFile):
                destination.take_back(step)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time inside (evaluation, pictures) counts neither as training nor as waiting."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._paused_seconds += time.perf_counter() - start

    def say(self, sentence: str) -> None:
        """Prints a sentence above the progress bar."""
        if self._primary:
            self._display.say(sentence)

    def bad_file(self, name: str, reason: str = "") -> None:
        """Notes an image that could not be read; says so once, lists every one.

        Args:
          name: path or record id.
          reason: what the decoder said.
        """
        if name in self._bad_files:
            return
        if not self._bad_files:
            shown = name.encode(errors="backslashreplace").decode()  # not every name is UTF-8
            self.say(
                f"{shown} cannot be read{f' ({reason})' if reason else ''}: in training another "
                "image takes its place, in evaluations it does not count; all such files are "
                f"listed in {self._folder.bad_files_path}."
            )
        self._bad_files.add(name)
        path = self._folder.bad_files_path
        with disk_trouble_told(path), open(path, "a", errors="surrogateescape") as file:
            file.write(f"{name}\t{reason}".replace("\n", " ").rstrip() + "\n")

    def nonfinite(
        self, source: Source, step: int, metrics: Mapping[str, Any], index: jax.Array
    ) -> None:
        """Notes a step that was skipped, as ``nonfinite.note_nonfinite`` does, and says so."""
        if self._primary:
            with disk_trouble_told(self._folder.path):
                self.say(note_nonfinite(self._folder, source, step, metrics, index))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Marks the run as finished; adds ``steps``, ``wall_seconds``, speed and bad files."""
        if self._primary:
            rate = self.images_per_second
            self._folder.write_summary(
                {
                    "steps": self._step,
                    "wall_seconds": self.wall_seconds,
                    "images_per_second": rate,
                    "bad_files": self.bad_file_count,
                    **finite(summary),
                }
            )
            self._finished = True

    def close(self) -> None:
        """Flushes and closes everything; the terminal is the user's again."""
        if self._primary:
            self._display.close()
            for destination in self._destinations:
                destination.close(finished=self._finished)

    def _recall(self, rows: list[dict[str, Any]], start_step: int) -> None:
        """Takes up what the rows of earlier processes say."""
        if not rows:
            return
        self._wall_seconds_before = rows[-1].get("wall_seconds") or 0.0
        self._rates_before = [row[_RATE] for row in rows if row.get(_RATE)]
        if rows[-1]["step"] == start_step:
            added = ("step", "wall_seconds", _RATE, "input_bound")
            # null stands for a number that was not finite
            self.metrics_before = {
                k: math.nan if v is None else v for k, v in rows[-1].items() if k not in added
            }

    def _seconds_left(self, step: int, now: float) -> float | None:
        """From the pace since the first log, evaluations included, compilation left out."""
        first_step, first_time = self._first_logged
        if step == first_step:
            return None
        return (now - first_time) / (step - first_step) * (self._total_steps - step)


def _bad_files(path: Path) -> set[str]:
    lines = path.read_text(errors="surrogateescape").splitlines() if path.exists() else []
    return {line.split("\t")[0] for line in lines}
