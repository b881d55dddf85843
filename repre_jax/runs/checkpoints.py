"""Checkpoints of the whole training state, on Orbax: atomic, asynchronous, verified on restore.

A folder ``<step>/`` per checkpoint holds ``state/`` (all arrays of the train state) and
``about/`` (a small JSON: step, metrics, SHA-256 of the state and of each array, hash of its
structure). Orbax
writes into a temporary folder and renames it when everything is on disk, so a process killed at
any moment leaves only whole checkpoints and a temporary folder that the next start removes.
"""

import contextlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from repre_jax.errors import UserError
from repre_jax.runs.disk_errors import disk_trouble, silence_echoes
from repre_jax.runs.fingerprints import (
    array_sha256s,
    joint_sha256,
    params_sha256,
    structure_sha256,
)
from repre_jax.runs.folder import write_text
from repre_jax.sharding import Shardings, abstract

_YEARS = 10 * 365 * 24 * 3600  # seconds


class Checkpoints:
    """Saves and restores train states in one folder that only one run writes to.

    Kept are the newest ``keep`` and the one with the highest ``best_metric``. In a run of several
    processes every process makes the same calls; the folder is shared between them.
    """

    def __init__(self, folder: Path, *, keep: int, best_metric: str | None):
        """Opens or makes ``folder`` and removes what an interrupted save left behind.

        Args:
          folder: where the checkpoints lie; made with its parents when missing.
          keep: how many of the newest to keep, at least 1. With 1 a damaged newest checkpoint
            has none before it to fall back on.
          best_metric: key into the metrics given to ``save``, higher is better, or None.

        Raises:
          UserError: the folder cannot be made or written to.
        """
        self.folder = Path(folder).absolute()
        self._best_metric = best_metric
        silence_echoes()
        with self._disk_errors_told():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._scores = _read_scores(self.folder, best_metric)
            self._manager = ocp.CheckpointManager(
                self.folder,
                item_names=("state", "about"),
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=_NewestAndBest(keep, self._scores),
                    cleanup_tmp_directories=True,
                    # Counted by the wall clock, which a waking laptop or a set clock moves on by
                    # hours: a save that waits for no other process may take as long as it likes.
                    async_options=ocp.AsyncOptions(
                        timeout_secs=_YEARS, create_directories_asynchronously=False
                    )
                    if jax.process_count() == 1
                    else None,
                    # Reads no file of existing checkpoints: a damaged one must not stop the start.
                    lightweight_initialize=True,
                ),
            )

    @property
    def steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending, the one being written included."""
        return sorted(self._manager.all_steps())

    def metrics_of(self, step: int) -> dict[str, float]:
        """The metrics that the checkpoint of ``step`` was saved with; empty when with none."""
        return json.loads(_about_path(self.folder, step).read_text())["metrics"]

    def add_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Stores metrics beside a checkpoint that is on disk, and ranks it by them.

        Raises:
          UserError: disk full or no permission.
        """
        metrics = {key: float(value) for key, value in metrics.items()}
        score = _score(metrics, self._best_metric)
        if score is not None:
            self._scores[step] = score
        if jax.process_index() == 0:
            path = _about_path(self.folder, step)
            about = json.loads(path.read_text()) | {"metrics": metrics}
            write_text(path, json.dumps(about))

    def save(self, state: Any, metrics: Mapping[str, float] | None = None) -> bool:
        """Starts saving ``state`` under ``state.step``; returns when the arrays may be donated.

        An earlier save that is still being written is waited for first. A step that already has
        a checkpoint is left as it is, for the state of a step never differs within a run.

        Args:
          state: pytree of arrays with a scalar integer ``step``; no typed PRNG keys.
          metrics: to store beside it; ``best_metric`` among them ranks the checkpoint.

        Returns:
          True when a save was started, False when the step was there already.

        Raises:
          UserError: this save or the one before could not be written (disk full, no permission);
            the run should end, and a new ``Checkpoints`` goes on from what is on disk.
        """
        step = int(state.step)
        metrics = {key: float(value) for key, value in (metrics or {}).items()}
        with self._disk_errors_told():
            # First of all: if it failed, its step must not count as saved below.
            self._manager.wait_until_finished()
            if step in self._manager.all_steps():
                return False
            score = _score(metrics, self._best_metric)
            if score is not None:
                self._scores[step] = score
            digests = array_sha256s(state)
            about = {
                "step": step,
                "metrics": metrics,
                "sha256": joint_sha256(digests),
                "structure": structure_sha256(state),
                "arrays": digests,  # for readers of a part of the state
            }
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(about)
                ),
                force=True,
            )
        return True

    def restore_or_init(
        self, init: Callable[..., Any], shardings: Shardings, *inputs: Any
    ) -> tuple[Any, list[str]]:
        """The newest sound checkpoint, or the state at step 0; and what the user should know.

        Args:
          init: makes the state at step 0 from ``inputs``; jitted here.
          shardings: of the state's arrays.
          *inputs: pytrees of arrays.
        """
        shapes = abstract(init, shardings, *inputs)
        state, messages = self.restore_newest(shapes)
        if state is None:
            where = jax.tree.map(lambda x: x.sharding, shapes)
            return jax.jit(init, out_shardings=where)(*inputs), messages
        return state, [*messages, f"Resumed at step {int(state.step):,}."]

    def restore_newest(self, abstract_state: Any) -> tuple[Any | None, list[str]]:
        """Restores the newest sound checkpoint.

        A damaged one (files missing, cut short or changed since the save) is passed over for the
        one before it and moved to ``damaged/``, so that training can save that step again and
        the evidence stays. The number of devices may differ from the run that saved.

        Args:
          abstract_state: the state's pytree with a ``jax.ShapeDtypeStruct`` that has a sharding
            in place of each array; the arrays are restored onto these shardings.

        Returns:
          (state, sentences for the user); state is None when there is no checkpoint at all.

        Raises:
          UserError: every checkpoint is damaged, or they belong to another model.
        """
        damaged: dict[int, str] = {}
        for step in reversed(self.steps):
            try:
                state = self._restore(step, abstract_state)
            except (UserError, MemoryError, PermissionError, jax.errors.JaxRuntimeError):
                raise  # not the checkpoint's fault, so older ones would not fare better
            except Exception as error:  # Orbax, TensorStore and JSON each have their own types
                damaged[step] = _reason(error)
                continue
            return state, self._set_aside(damaged, restored=step)
        if not damaged:
            return None, []
        newest = max(damaged)
        raise UserError(
            f"No checkpoint in {self.folder} can be read (steps "
            f"{', '.join(map(str, sorted(damaged)))}; the newest: {damaged[newest]}): bring the "
            "folder back from a copy, or start again in another --workdir."
        )

    def preempted(self, step: int) -> bool:
        """Whether a scheduler has told a run of several processes to stop; they agree on the step.

        ``jax.distributed`` listens for SIGTERM; a run of one process does so itself.
        """
        return jax.process_count() > 1 and self._manager.reached_preemption(step)

    def wait(self) -> None:
        """Returns when the save in progress is on disk; UserError when it could not be written."""
        with self._disk_errors_told():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits as ``wait`` does and ends Orbax's threads."""
        with self._disk_errors_told():
            self._manager.close()

    def _restore(self, step: int, abstract_state: Any) -> Any:
        about = json.loads(_about_path(self.folder, step).read_text())
        if about["structure"] != structure_sha256(abstract_state):
            raise UserError(
                f"Checkpoint {step} in {self.folder} holds another model or optimizer than this "
                "run's: use the version and config that made it, or another --workdir."
            )
        state = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state))
        ).state
        if params_sha256(state) != about["sha256"]:
            raise _BytesChanged
        return state

    def _set_aside(self, damaged: Mapping[int, str], restored: int) -> list[str]:
        if not damaged:
            return []
        target_folder = self.folder / "damaged"
        if jax.process_index() == 0:
            target_folder.mkdir(exist_ok=True)
            for step in damaged:
                target = target_folder / str(step)
                shutil.rmtree(target, ignore_errors=True)  # the same step, damaged once before
                (self.folder / str(step)).rename(target)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoints set aside")
        for step in damaged:
            self._scores.pop(step, None)
        self._manager.reload()
        return [
            f"Checkpoint {step} is damaged ({reason}): it was moved to {target_folder}, and the "
            f"run goes on from checkpoint {restored}."
            for step, reason in damaged.items()
        ]

    @contextlib.contextmanager
    def _disk_errors_told(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            trouble = disk_trouble(error)
            if trouble is None:
                raise
            self._remove_unfinished()
            intact = " Earlier checkpoints are intact." if any(self.folder.glob("[0-9]*")) else ""
            raise UserError(
                f"Cannot write checkpoints to {self.folder}: {trouble}{intact}"
            ) from error

    def _remove_unfinished(self) -> None:
        """Removes a failed save's temporary folder: on a full disk its space is wanted back."""
        # Other threads of the same save may still write into it, or make it anew.
        deadline, quiet_looks = time.monotonic() + 10.0, 0
        while quiet_looks < 5 and time.monotonic() < deadline:
            leftovers = list(self.folder.glob(f"*{ocp.utils.TMP_DIR_SUFFIX}*"))
            for leftover in leftovers:
                shutil.rmtree(leftover, ignore_errors=True)
            quiet_looks = 0 if leftovers else quiet_looks + 1
            time.sleep(0.05)


class _BytesChanged(Exception):
    """Everything could be read, but the SHA-256 is another."""


class _NewestAndBest:
    """Orbax preservation policy: the newest ``keep`` and the one with the highest score.

    Scores come from the run rather than from Orbax, which would read every old checkpoint's
    metrics at the start and stop at a damaged one.
    """

    def __init__(self, keep: int, scores: Mapping[int, float]):
        self._keep = keep
        self._scores = scores

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        steps = [info.step for info in checkpoints]
        kept = set(sorted(steps)[-self._keep :])
        scored = [step for step in steps if step in self._scores]
        if scored:
            kept.add(max(scored, key=lambda step: (self._scores[step], step)))
        return [step in kept for step in steps]


def _about_path(folder: Path, step: int) -> Path:
    return folder / str(step) / "about" / "metadata"


def _score(metrics: Mapping[str, float], best_metric: str | None) -> float | None:
    score = metrics.get(best_metric)
    return score if score is not None and math.isfinite(score) else None


def _read_scores(folder: Path, best_metric: str | None) -> dict[int, float]:
    scores = {}
    for path in folder.glob("*/about/metadata"):
        try:
            about = json.loads(path.read_text())
            score = _score(about["metrics"], best_metric)
            if score is not None:
                scores[int(about["step"])] = score
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # damaged: restore_newest says so when it matters
    return scores


def _reason(error: BaseException) -> str:
    if isinstance(error, _BytesChanged):
        return "its bytes are not those that were saved"
    return f"a file is {'missing' if isinstance(error, FileNotFoundError) else 'garbled'}"
