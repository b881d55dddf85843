"""The loop that every training shares, on a training of one number."""

import contextlib
import json
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from whole_runs import rows

from repre_jax.data.sources.decode import BadImage
from repre_jax.errors import UserError
from repre_jax.runs import nonfinite
from repre_jax.runs.folder import RunFolder
from repre_jax.runs.interruption import Stopped
from repre_jax.runs.loop import TrainingLoop, open_training, scalars
from repre_jax.runs.nonfinite import note_nonfinite
from repre_jax.runs.profile import Profile
from repre_jax.sharding import all_replicated, make_mesh

TOTAL = 6


class Count(struct.PyTreeNode):
    step: jax.Array
    total: jax.Array


def initial() -> Count:
    return Count(jnp.zeros((), jnp.int32), jnp.zeros(()))


@jax.jit
def add(state: Count, batch):
    """Adds the batch; what is not finite is skipped."""
    value = batch["value"]
    total = state.total + jnp.where(jnp.isfinite(value), value, 0)
    skipped = jnp.where(jnp.isfinite(value), 0, 4)
    return Count(state.step + 1, total), {"loss": total, "nonfinite_in_a_row": skipped}


class Batches:
    """What a DevicePrefetcher gives: one number a step, whatever the step before was."""

    waited_seconds = 0.0

    def __init__(self, start_step: int, bad_step: int | None = None, last: int = TOTAL):
        self.step, self.bad_step, self.last = start_step, bad_step, last

    def __next__(self):
        if self.step == self.last:
            raise UserError("There are no more.")
        self.step += 1
        value = np.inf if self.step == self.bad_step else float(self.step)
        replaced = np.array([-1, 7 if self.step == 2 else -1])
        return {"value": jnp.float32(value), "index": np.arange(2), "replaced": replaced}


class Images:
    def name_of(self, index: int) -> str:
        return f"image {index}"

    def check(self, index: int):
        raise BadImage(self.name_of(index), "it is torn")


class StoppedAfter:
    """An interruption that comes with a step."""

    def __init__(self, batches: Batches, step: int | None):
        self.batches, self.step, self.listened_from = batches, step, None

    @contextlib.contextmanager
    def listening(self):
        self.listened_from = self.batches.step
        yield

    @property
    def signal(self):
        return signal.SIGTERM if self.batches.step == self.step else None


def train(workdir, *, stop_after=None, bad_step=None, last=TOTAL, measured=None, **options):
    """Trains to the end, or to a step; returns (state, numbers)."""
    measured = [] if measured is None else measured

    def measure(state):
        measured.append(int(state.step))
        return {"score": float(state.total)}

    measures = {"measure": measure}
    folder = RunFolder(workdir, {"task": "count"}, ignore=(), primary=True)
    try:
        with open_training(
            folder,
            initial,
            shardings=all_replicated(make_mesh(1)),
            total_steps=TOTAL,
            batch_size=1,
            keep=9,
            best_metric="score",
        ) as (resumed, checkpoints, logs, _):
            batches = Batches(int(resumed.step), bad_step, last)
            loop = TrainingLoop(
                step=add,
                total_steps=TOTAL,
                checkpoints=checkpoints,
                logs=logs,
                source=Images(),
                **({"log_every": 2, "save_every": 2, "measure_every": 3} | measures | options),
            )
            interruption = StoppedAfter(batches, stop_after)
            state, numbers = loop.run(resumed, batches, interruption)
            first = int(resumed.step) + 1
            assert interruption.listened_from in (first, None), "before it, nothing is lost"
            return state, numbers
    finally:
        folder.close()


def without_time(workdir):
    return [
        {key: row[key] for key in ("step", "loss", "score") if key in row} for row in rows(workdir)
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(folder, numbers) of an uninterrupted training."""
    folder = tmp_path_factory.mktemp("loop") / "whole"
    return folder, train(folder)[1]


def test_logs_measures_and_saves_when_due(whole):
    folder, numbers = whole
    assert without_time(folder) == [
        {"step": 2, "loss": 3.0},
        {"step": 3, "loss": 6.0, "score": 6.0},
        {"step": 4, "loss": 10.0},
        {"step": 6, "loss": 21.0, "score": 21.0},
    ]
    assert sorted(int(path.name) for path in (folder / "checkpoints").iterdir()) == [2, 3, 4, 6]
    assert numbers["score"] == 21.0
    assert (folder / "bad_files.txt").read_text() == "image 7\tit is torn\n"


def test_without_images_a_training_saves_and_goes_on(whole, tmp_path, capsys):
    with pytest.raises(UserError, match="There are no more"):
        train(tmp_path / "run", last=5)
    assert "Saved at step 5." in capsys.readouterr().out
    with pytest.raises(UserError, match="There are no more"):
        train(tmp_path / "run", last=5)  # nothing new to save
    assert "Saved" not in capsys.readouterr().out
    state, numbers = train(tmp_path / "run")
    assert (float(state.total), numbers) == (21.0, whole[1])
    assert without_time(tmp_path / "run") == without_time(whole[0])


def test_a_stopped_training_says_so_and_goes_on(whole, tmp_path, capsys):
    with pytest.raises(Stopped) as stopped:
        train(tmp_path / "run", stop_after=5)
    assert stopped.value.exit_code == 143
    assert "Stopped and saved at step 5; the same command goes on." in capsys.readouterr().out
    state, numbers = train(tmp_path / "run")
    assert "Resumed at step 5." in capsys.readouterr().out
    assert float(state.total) == 21.0 and numbers["score"] == whole[1]["score"]


@pytest.mark.parametrize("options", [{}, {"log_every": 4, "measure_every": 0, "measure": None}])
@pytest.mark.parametrize("stop_after", range(1, TOTAL + 1))
def test_a_stop_leaves_no_trace_in_the_rows(tmp_path, stop_after, options):
    train(tmp_path / "whole", **options)
    with pytest.raises(Stopped):
        train(tmp_path / "run", stop_after=stop_after, **options)
    assert without_time(tmp_path / "run")[-1]["step"] == stop_after, "until it goes on"
    train(tmp_path / "run", **options)
    assert without_time(tmp_path / "run") == without_time(tmp_path / "whole")


@pytest.mark.parametrize("stop_after", [3, TOTAL])
def test_a_measurement_that_a_stop_left_out_is_made_up_for(whole, tmp_path, stop_after):
    """A scheduler that stops a run leaves no time for it."""
    measured = []
    for stop in sorted({stop_after, TOTAL}):
        with pytest.raises(Stopped):
            train(tmp_path / "run", stop_after=stop, measured=measured)
        if stop == stop_after:
            assert stop not in measured
    _, numbers = train(tmp_path / "run", measured=measured)
    assert measured == [3, TOTAL], "made up for once, whatever happens then"
    assert numbers["score"] == whole[1]["score"]
    scored = [row for row in without_time(tmp_path / "run") if "score" in row]
    assert scored == [row for row in without_time(whole[0]) if "score" in row]


def test_a_finished_training_measures_nothing_again(tmp_path):
    measured = []
    train(tmp_path / "run", measured=measured)
    _, numbers = train(tmp_path / "run", measured=measured)
    assert measured == [3, TOTAL] and numbers["score"] == 21.0


def test_too_many_steps_that_are_not_finite_end_the_run(tmp_path):
    with pytest.raises(UserError, match=r"not finite 4 steps in a row, up to step 5;.* Rest\."):
        train(tmp_path / "run", bad_step=5, max_nonfinite_steps=4, advice="Rest.")
    note = json.loads((tmp_path / "run" / "nonfinite" / "5.json").read_text())
    assert note == {"step": 5, "loss": 10.0, "features_not_finite_of": [], "images": [0, 1]}
    state, _ = train(tmp_path / "other", bad_step=5, max_nonfinite_steps=5)
    assert float(state.total) == 16.0


def test_a_skipped_step_is_told_where_one_process_has_not_all_images(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    folder = RunFolder(tmp_path / "run", {"task": "pretrain"})
    metrics = {"loss": jnp.float32(np.nan), "features": jnp.full((2, 3), np.nan)}
    told = note_nonfinite(folder, None, 5, metrics, jnp.arange(2))
    folder.close()
    path = folder.path / "nonfinite" / "5.json"
    assert json.loads(path.read_text()) == {"step": 5, "loss": "nan"}
    assert "--config=replay" in told and f"--config.step_file={path} looks into it." in told


def test_replay_is_named_where_it_can_repeat_the_step(tmp_path, monkeypatch):
    def told(task, most=20):
        monkeypatch.setattr(nonfinite, "_MOST_FILES", most)
        folder = RunFolder(tmp_path / task, {"task": task})
        said = note_nonfinite(folder, None, most, {"loss": jnp.float32(np.nan)}, jnp.arange(2))
        folder.close()
        return said

    assert "--config=replay" in told("pretrain")
    assert "--config=replay" not in told("pretrain", most=1), "there is no file any more"
    assert "--config=replay" not in told("finetune")


def test_a_number_that_is_not_finite_stays_in_a_row_that_is_made_up_for(tmp_path):
    """JSON has null for it, in the row of a step that a stop kept from its measurement."""

    def to_host(step, metrics):
        return scalars(step, metrics) | {"odd": np.nan}

    with pytest.raises(Stopped):
        train(tmp_path / "run", stop_after=3, to_host=to_host)
    train(tmp_path / "run", to_host=to_host)
    (row,) = (row for row in rows(tmp_path / "run") if row["step"] == 3)
    assert (row["odd"], row["score"]) == (None, 6.0)


def test_the_steps_asked_for_are_traced(tmp_path, monkeypatch, capsys):
    traced = []

    @contextlib.contextmanager
    def trace(folder):
        traced.append(("begin", folder))
        yield
        traced.append(("end", folder))

    monkeypatch.setattr(jax.profiler, "trace", trace)
    profile = Profile.of("2:3", tmp_path / "profile")
    taken = add

    def seen(state, batch):
        traced.append(int(state.step) + 1)
        return taken(state, batch)

    monkeypatch.setitem(globals(), "add", seen)
    train(tmp_path / "run", profile=profile)
    begin, end = ("begin", profile.folder), ("end", profile.folder)
    assert traced[:6] == [1, begin, 2, 3, end, 4]
    assert f"Steps 2 to 3 are traced in {profile.folder}" in capsys.readouterr().out


@pytest.mark.parametrize("steps", ["2", "3:2", "0:2", "a:b", "1:2:3"])
def test_steps_that_cannot_be_traced(steps):
    with pytest.raises(UserError, match=r"logging\.profile="):
        Profile.of(steps, Path("x"))


def test_a_trace_that_never_begins_is_known():
    profile = Profile.of("5:9", Path("x"))
    assert profile.lies_within(5, 5) and profile.lies_within(1, 20)
    assert not profile.lies_within(6, 20) and not profile.lies_within(1, 4)
