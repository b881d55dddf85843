"""How every training goes, whatever is trained: begin or go on, step, log, measure, save, stop."""

import contextlib
import dataclasses
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from repre_jax.data.batches import why_unreadable
from repre_jax.data.device.prefetch import DevicePrefetcher
from repre_jax.data.sources.source import Source
from repre_jax.errors import UserError
from repre_jax.runs.checkpoints import Checkpoints
from repre_jax.runs.folder import RunFolder
from repre_jax.runs.interruption import Interruption, Stopped
from repre_jax.runs.logs import RunLogs
from repre_jax.runs.profile import Profile
from repre_jax.sharding import Shardings

Metrics = dict[str, float]


class Opened(NamedTuple):
    """A training that begins or goes on.

    Attributes:
      state: of the newest sound checkpoint, or of step 0.
      checkpoints: where states go.
      logs: where metrics go.
      interruption: that will say whether the run is asked to stop.
    """

    state: Any
    checkpoints: Checkpoints
    logs: RunLogs
    interruption: Interruption


@contextlib.contextmanager
def open_training(
    folder: RunFolder,
    init: Callable[..., Any],
    *inputs: Any,
    shardings: Shardings,
    total_steps: int,
    batch_size: int,
    keep: int,
    best_metric: str | None,
    trackers: Mapping[str, str] | None = None,
) -> Iterator[Opened]:
    """Takes up the training in ``folder`` where it stopped, or begins it.

    Args:
      folder: of the run.
      init: makes the state at step 0 from ``inputs``; jitted here.
      *inputs: arrays.
      shardings: of the state's arrays.
      total_steps: of the whole run.
      batch_size: images of a step, over all devices.
      keep: newest checkpoints to keep.
      best_metric: the number by which one more checkpoint is kept, higher is better, or None.
      trackers: services that get the metrics as well, of ``trackers.chosen_trackers``.

    Raises:
      UserError: the folder cannot be written to, or holds the checkpoints of something else.
    """
    with contextlib.ExitStack() as stack:
        checkpoints = Checkpoints(folder.checkpoints, keep=keep, best_metric=best_metric)
        stack.callback(checkpoints.close)
        state, messages = checkpoints.restore_or_init(init, shardings, *inputs)
        if jax.process_index() == 0:
            folder.write_config()
        logs = RunLogs(
            folder,
            start_step=int(state.step),
            total_steps=total_steps,
            batch_size=batch_size,
            primary=jax.process_index() == 0,
            trackers=trackers,
        )
        stack.callback(logs.close)
        for message in messages:
            logs.say(message)
        yield Opened(state, checkpoints, logs, Interruption())


def scalars(step: int, metrics: dict[str, jax.Array]) -> Metrics:
    """Metrics of a step on the host."""
    del step  # other functions in this place speak of it
    return {name: float(value) for name, value in jax.device_get(metrics).items()}


@dataclasses.dataclass(frozen=True)
class TrainingLoop:
    """What a training consists of, apart from its state and its input.

    Attributes:
      step: compiled (state, batch) -> (state, metrics); it may have the state donated. Where it
        skips what is not finite, "nonfinite_in_a_row" among the metrics counts.
      total_steps: of the whole run.
      log_every, save_every: in steps, 0 for never; the last step is logged and saved in any case.
      checkpoints: where states go.
      logs: where metrics go.
      source: of the images, to name those that cannot be read.
      measure: state -> metrics, ``checkpoints.best_metric`` among them; None for no measurement.
      measure_every: in steps, 0 for never; the last step is measured in any case.
      diagnose: (state, batch) -> metrics of the steps that are logged, before they are taken.
      to_host: (step, metrics) -> metrics on the host.
      max_nonfinite_steps: so many steps in a row that are not finite end the run.
      advice: what to do then.
      profile: steps to be traced.
    """

    step: Callable[[Any, Any], tuple[Any, dict[str, jax.Array]]]
    total_steps: int
    log_every: int
    save_every: int
    checkpoints: Checkpoints
    logs: RunLogs
    source: Source
    measure: Callable[[Any], Metrics] | None = None
    measure_every: int = 0
    diagnose: Callable[[Any, Any], dict[str, jax.Array]] | None = None
    to_host: Callable[[int, dict[str, jax.Array]], Metrics] = scalars
    max_nonfinite_steps: int = 10
    advice: str = ""
    profile: Profile | None = None

    def run(
        self, state: Any, batches: DevicePrefetcher, interruption: Interruption
    ) -> tuple[Any, Metrics]:
        """Steps until the end of the run or until asked to stop; either way the state is saved.

        Signals are listened for from the first step on: before it, nothing is lost by an end. A
        measurement that is under way is finished first; one that is due when the run is asked to
        stop is left to the process that goes on.

        Args:
          state: with a scalar integer ``step``.
          batches: from that step on.
          interruption: asked after every step.

        Returns:
          (state, metrics of the last step).

        Raises:
          Stopped: it was asked to, and has saved.
          UserError: too many steps in a row that are not finite, no more images, which saves
            first, or a disk that is full.
        """
        with contextlib.ExitStack() as stack:
            return self._run(state, batches, interruption, stack)

    def _run(self, state, batches, interruption, stack) -> tuple[Any, Metrics]:
        host_metrics = self._metrics_before(state, batches)
        previous, stop = None, None
        trace = stack.enter_context(contextlib.ExitStack())
        for step in range(int(state.step) + 1, self.total_steps + 1):
            batch = self._next(batches, state, unsaved=previous is not None)
            self._note_bad_files(batch.pop("replaced"))
            last = step == self.total_steps
            log_now = last or _due(step, self.log_every)
            diagnosis = self.diagnose(state, batch) if log_now and self.diagnose else {}
            if self.profile:
                self.profile.begin(step, trace)
            state, metrics = self.step(state, batch)
            if self.profile:
                self.profile.end(step, metrics, trace, self.logs.say)
            if previous is None:
                stack.enter_context(interruption.listening())
            else:
                # Waiting for the step before keeps the device one step ahead of the host, no more.
                self._check_finite(step - 1, *previous)
            previous = metrics, batch["index"]

            stop = interruption.signal or (self.checkpoints.preempted(step) and signal.SIGTERM)
            measure_now = self._measured_at(step) and not stop
            if log_now or measure_now or stop:
                host_metrics = self.to_host(step, metrics | diagnosis)
                if measure_now:
                    host_metrics |= self._measure(state)
                self.logs.log(step, host_metrics, waited_seconds=batches.waited_seconds)
            if last or stop or measure_now or _due(step, self.save_every):
                self.checkpoints.save(state, host_metrics if measure_now else None)
            if stop:
                break
        if previous is not None:
            self._check_finite(int(state.step), *previous)
        self.checkpoints.wait()
        stop = stop or interruption.signal  # that came while the last step was saved
        if stop:
            self.logs.say(
                f"Stopped and saved at step {int(state.step):,}; the same command goes on."
            )
            raise Stopped(stop)
        return state, host_metrics

    def _next(self, batches: DevicePrefetcher, state: Any, *, unsaved: bool) -> dict:
        """The next batch; when there is none to be had, what was done so far is saved first."""
        try:
            return next(batches)
        except UserError:
            if unsaved and jax.process_count() == 1:  # the others wait in a step, not in a save
                self.checkpoints.save(state)
                self.checkpoints.wait()
                self.logs.say(f"Saved at step {int(state.step):,}.")
            raise

    def _metrics_before(self, state: Any, batches: DevicePrefetcher) -> Metrics:
        """Those of the step that the run goes on from; the measurement that a stop left out, too.

        Measured metrics come from the checkpoint, which all processes read, not from the logs.
        """
        step = int(state.step)
        if not (step and self._measured_at(step)):
            if not (step == self.total_steps or _due(step, self.log_every)):
                self.logs.take_back(step)
            return self.logs.metrics_before
        host_metrics = self.checkpoints.metrics_of(step)
        if not host_metrics:
            host_metrics = self.logs.metrics_before | self._measure(state)
            self.logs.take_back(step)
            self.logs.log(step, host_metrics, waited_seconds=batches.waited_seconds)
            self.checkpoints.add_metrics(step, host_metrics)
        return host_metrics

    def _measured_at(self, step: int) -> bool:
        due = step == self.total_steps or _due(step, self.measure_every)
        return self.measure is not None and due

    def _measure(self, state: Any) -> Metrics:
        with self.logs.paused():
            return self.measure(state)

    def _note_bad_files(self, replaced: np.ndarray) -> None:
        for index in replaced[replaced >= 0]:
            self.logs.bad_file(*why_unreadable(self.source, int(index)))

    def _check_finite(self, step: int, metrics: dict[str, jax.Array], index: jax.Array) -> None:
        jax.block_until_ready(metrics)
        count = int(metrics.get("nonfinite_in_a_row", 0))
        if count:
            self.logs.nonfinite(self.source, step, metrics, index)
        if count >= self.max_nonfinite_steps:
            raise UserError(
                f"Loss or gradient was not finite {count} steps in a row, up to step {step:,}; "
                f"those steps were skipped and the checkpoints in {self.checkpoints.folder} are "
                f"sound. {self.advice}"
            )


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
