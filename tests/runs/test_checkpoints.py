"""Round trip, retention, damage, full disk, kill -9."""

import contextlib
import errno
import itertools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from orbax.checkpoint._src.handlers import json_checkpoint_handler

from repre_jax.errors import UserError
from repre_jax.runs.checkpoints import Checkpoints

# Orbax leaves unawaited asyncio futures behind when a read or write fails.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class State(struct.PyTreeNode):
    step: jax.Array
    params: dict
    opt_state: tuple
    memory: dict


def make_state(step: int, devices: int = 1, width: int = 64, salt: int = 0) -> State:
    """A state whose values depend on the step; the queue is sharded over ``devices``."""
    mesh = Mesh(np.array(jax.devices()[:devices]), ("batch",))
    rng = np.random.default_rng(step + 1000 * salt)
    params = {
        "encoder": {"kernel": rng.normal(size=(width, width)).astype(np.float32)},
        "heads": {"bias": jnp.asarray(rng.normal(size=3), jnp.bfloat16), "none": {}},
    }
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.constant_schedule(1e-3)))
    state = State(
        step=jnp.int32(step),
        params=params,
        opt_state=tx.init(params),
        memory={"queue": rng.normal(size=(16, 8)).astype(np.float32), "pointer": None},
    )
    state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    queue = jax.device_put(state.memory["queue"], NamedSharding(mesh, PartitionSpec("batch")))
    return state.replace(memory={**state.memory, "queue": queue})


def abstract(state: State) -> State:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def assert_same(restored: State, saved: State) -> None:
    assert jax.tree.structure(restored) == jax.tree.structure(saved)
    for got, expected in zip(jax.tree.leaves(restored), jax.tree.leaves(saved), strict=True):
        assert got.dtype == expected.dtype
        assert got.sharding == expected.sharding
        np.testing.assert_array_equal(np.asarray(got), np.asarray(expected))


def fill(folder: Path, steps, keep: int = 3) -> None:
    checkpoints = Checkpoints(folder, keep=keep, best_metric=None)
    for step in steps:
        assert checkpoints.save(make_state(step))
    checkpoints.close()


def test_round_trip_is_exact(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2, best_metric=None)
    assert checkpoints.restore_newest(abstract(make_state(0))) == (None, [])
    saved = make_state(7)
    assert checkpoints.save(saved)
    assert not checkpoints.save(saved), "a step that is there is not saved twice"
    checkpoints.close()
    reopened = Checkpoints(tmp_path / "checkpoints", keep=2, best_metric=None)
    restored, messages = reopened.restore_newest(abstract(make_state(0)))
    assert messages == []
    assert_same(restored, saved)
    reopened.close()


@pytest.mark.parametrize(("before", "after"), [(8, 1), (1, 8), (8, 2)])
def test_number_of_devices_may_change(tmp_path, before, after):
    checkpoints = Checkpoints(tmp_path, keep=2, best_metric=None)
    checkpoints.save(make_state(3, devices=before))
    checkpoints.wait()
    restored, messages = checkpoints.restore_newest(abstract(make_state(0, devices=after)))
    assert messages == []
    assert_same(restored, make_state(3, devices=after))
    checkpoints.close()


def test_numbers_that_come_later_rank_a_checkpoint(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1, best_metric="knn/top1")
    checkpoints.save(make_state(1))
    checkpoints.wait()
    assert checkpoints.metrics_of(1) == {}
    checkpoints.add_metrics(1, {"knn/top1": 0.9, "loss": 2.0})
    checkpoints.save(make_state(2), {"knn/top1": 0.5})
    checkpoints.close()
    reopened = Checkpoints(tmp_path, keep=1, best_metric="knn/top1")
    assert reopened.metrics_of(1) == {"knn/top1": 0.9, "loss": 2.0}
    reopened.save(make_state(3))
    reopened.wait()
    assert reopened.steps == [1, 3]
    restored, messages = reopened.restore_newest(abstract(make_state(0)))
    assert int(restored.step) == 3 and messages == []
    reopened.close()


def test_the_clock_may_jump_by_days_while_saving(tmp_path, monkeypatch):
    days = itertools.count()
    monkeypatch.setattr(time, "time", lambda: 86400.0 * next(days))
    fill(tmp_path, [1, 2])
    monkeypatch.undo()
    with contextlib.closing(Checkpoints(tmp_path, keep=3, best_metric=None)) as checkpoints:
        assert checkpoints.steps == [1, 2]
        assert_same(checkpoints.restore_newest(abstract(make_state(2)))[0], make_state(2))


def test_donated_buffers_do_not_reach_the_save(tmp_path):
    """Training goes on while the save is being written, in the memory that it was given."""
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    checkpoints = Checkpoints(tmp_path, keep=2, best_metric=None)
    state = make_state(1, width=512)
    checkpoints.save(state)
    for _ in range(5):
        state = step(state)
    checkpoints.wait()
    restored, _ = checkpoints.restore_newest(abstract(make_state(0, width=512)))
    assert_same(restored, make_state(1, width=512))
    checkpoints.close()


def test_keeps_newest_and_best(tmp_path):
    scores = {1: 0.2, 2: 0.9, 3: 0.5, 4: float("nan"), 5: 0.6, 6: None}
    checkpoints = Checkpoints(tmp_path, keep=2, best_metric="knn/top1")
    for step, score in scores.items():
        checkpoints.save(make_state(step), {} if score is None else {"knn/top1": score})
    checkpoints.wait()
    assert checkpoints.steps == [2, 5, 6]
    checkpoints.close()
    # The best is remembered by the folder, not by the process.
    reopened = Checkpoints(tmp_path, keep=2, best_metric="knn/top1")
    for step, score in {7: 0.8, 8: 0.1}.items():
        reopened.save(make_state(step), {"knn/top1": score})
    reopened.wait()
    assert reopened.steps == [2, 7, 8]
    reopened.save(make_state(9), {"knn/top1": 0.95})
    reopened.save(make_state(10), {"knn/top1": 0.3})
    reopened.save(make_state(11))
    reopened.close()
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["10", "11", "9"]


def largest_file(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def truncate(step: Path) -> None:
    os.truncate(largest_file(step), largest_file(step).stat().st_size // 2)


def garble_all(step: Path) -> None:
    for path in step.rglob("*"):
        if path.is_file():
            path.write_bytes(b"\x00garbled" * 7)


def flip_a_byte(step: Path) -> None:
    data = bytearray(largest_file(step).read_bytes())
    data[len(data) // 2] ^= 1
    largest_file(step).write_bytes(data)


def delete(*names):
    def damage(step: Path) -> None:
        for name in names:
            target = step / name
            subprocess.run(["rm", "-r", str(target)], check=True)

    return damage


def change_fingerprint(step: Path) -> None:
    path = step / "about" / "metadata"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "sha256": "0" * 64}))


def empty_about(step: Path) -> None:
    (step / "about" / "metadata").write_text("")


def empty_folder(step: Path) -> None:
    delete("state", "about", "_CHECKPOINT_METADATA")(step)


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        garble_all,
        flip_a_byte,
        delete("state/_METADATA"),
        delete("state/manifest.ocdbt"),
        delete("state/d"),
        delete("state"),
        delete("about"),
        change_fingerprint,
        empty_about,
        empty_folder,
    ],
)
def test_damaged_newest_falls_back(tmp_path, damage):
    fill(tmp_path, [10, 20])
    damage(tmp_path / "20")
    checkpoints = Checkpoints(tmp_path, keep=3, best_metric="knn/top1")
    restored, messages = checkpoints.restore_newest(abstract(make_state(0)))
    assert_same(restored, make_state(10))
    assert len(messages) == 1
    assert "Checkpoint 20 is damaged" in messages[0]
    assert "from checkpoint 10" in messages[0]
    assert "\n" not in messages[0]
    assert (tmp_path / "damaged" / "20").is_dir()
    checkpoints.close()


def test_a_damaged_step_is_saved_anew(tmp_path):
    """Training passes it again."""
    fill(tmp_path, [10, 20])
    truncate(tmp_path / "20")
    checkpoints = Checkpoints(tmp_path, keep=3, best_metric=None)
    checkpoints.restore_newest(abstract(make_state(0)))
    assert checkpoints.save(make_state(20))
    checkpoints.close()
    again = Checkpoints(tmp_path, keep=3, best_metric=None)
    restored, messages = again.restore_newest(abstract(make_state(0)))
    assert messages == []
    assert_same(restored, make_state(20))
    again.close()


def test_all_damaged_is_an_error_and_nothing_is_moved(tmp_path):
    fill(tmp_path, [10, 20])
    truncate(tmp_path / "20")
    delete("about")(tmp_path / "10")
    checkpoints = Checkpoints(tmp_path, keep=3, best_metric=None)
    with pytest.raises(UserError, match=r"No checkpoint in .* can be read \(steps 10, 20"):
        checkpoints.restore_newest(abstract(make_state(0)))
    assert checkpoints.steps == [10, 20]
    checkpoints.close()


def test_another_model_is_not_damage(tmp_path):
    fill(tmp_path, [10, 20])
    checkpoints = Checkpoints(tmp_path, keep=3, best_metric=None)
    with pytest.raises(UserError, match="another model"):
        checkpoints.restore_newest(abstract(make_state(0, width=32)))
    assert checkpoints.steps == [10, 20]
    checkpoints.close()


def check_failed_save(folder: Path, save_under_trouble) -> None:
    """A failed save is one UserError, leaves nothing behind, and spares what was there."""
    checkpoints = Checkpoints(folder, keep=3, best_metric=None)
    checkpoints.save(make_state(1, width=256))
    checkpoints.wait()
    with pytest.raises(UserError, match="no space is left") as caught:
        save_under_trouble(checkpoints)
    assert str(folder) in str(caught.value)
    assert "Free some" in str(caught.value)
    assert "Earlier checkpoints are intact" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not [p for p in folder.iterdir() if "tmp" in p.name]
    # Space was freed and the command is run again: on from the checkpoint before.
    reopened = Checkpoints(folder, keep=3, best_metric=None)
    restored, messages = reopened.restore_newest(abstract(make_state(0, width=256)))
    assert messages == []
    assert_same(restored, make_state(1, width=256))
    assert reopened.save(make_state(2, width=256))
    reopened.close()
    assert reopened.steps == [1, 2]


def test_disk_full_while_arrays_are_written(tmp_path):
    """The kernel refuses files above 64 KiB, so that TensorStore's writing itself fails.

    RLIMIT_FSIZE gives EFBIG where a full disk gives ENOSPC; a tiny tmpfs, the closer simulation,
    needs the right to mount. Both take the same way through TensorStore.
    """

    def save(checkpoints):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))
        try:
            checkpoints.save(make_state(2, width=256))
            checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    check_failed_save(tmp_path, save)


def test_disk_full_in_python(tmp_path, monkeypatch):
    """ENOSPC from Orbax's own Python writing, seen at the next save rather than at once."""

    def save(checkpoints):
        with monkeypatch.context() as patch:

            def no_space(*args, **kwargs):
                raise OSError(errno.ENOSPC, "No space left on device")

            patch.setattr(json_checkpoint_handler.json, "dumps", no_space)
            checkpoints.save(make_state(2, width=256))
            checkpoints.save(make_state(3, width=256))

    check_failed_save(tmp_path, save)


def test_unwritable_folder(tmp_path):
    # A path under a regular file: permissions would not stop a test that runs as root.
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"Cannot write checkpoints to .*file/checkpoints"):
        Checkpoints(tmp_path / "file" / "checkpoints", keep=2, best_metric=None)


def test_permission_denied_is_told(tmp_path, monkeypatch):
    def forbidden(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", forbidden)
    with pytest.raises(UserError, match=r"permission denied\. Make the folder writable"):
        Checkpoints(tmp_path / "checkpoints", keep=2, best_metric=None)


_SAVES_FOR_EVER = """
import sys
from pathlib import Path
from repre_jax.runs.checkpoints import Checkpoints
from tests.runs.test_checkpoints import abstract, make_state
checkpoints = Checkpoints(Path(sys.argv[1]), keep=2, best_metric="score")
state, messages = checkpoints.restore_newest(abstract(make_state(0, width=512)))
step = 0 if state is None else int(state.step)
print("restored", step, messages, flush=True)
while True:
    step += 1
    checkpoints.save(make_state(step, width=512), {"score": step % 7})
    print("saving", step, flush=True)
"""


@pytest.mark.slow
def test_kill_9_during_saves_leaves_a_restorable_folder(tmp_path):
    rng = random.Random(0)
    newest = 0
    # Within the very first save, perhaps, and with a checkpoint certainly there.
    for saves in (1, 2):
        process = subprocess.Popen(
            [sys.executable, "-c", _SAVES_FOR_EVER, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": "."},
        )
        assert process.stdout.readline() == f"restored {newest} []\n"
        for step in range(newest + 1, newest + saves + 1):
            assert process.stdout.readline() == f"saving {step}\n"
        time.sleep(rng.uniform(0.0, 0.3))
        os.kill(process.pid, signal.SIGKILL)
        started = newest + saves + len(process.communicate()[0].splitlines())
        with contextlib.closing(Checkpoints(tmp_path, keep=2, best_metric="score")) as checkpoints:
            state, messages = checkpoints.restore_newest(abstract(make_state(0, width=512)))
        assert messages == []
        if state is None:
            assert started == 1
            continue
        newest = int(state.step)
        # One more may have been written whole before it was told of.
        assert started - 1 <= newest <= started + 1, "only the save in progress may be lost"
        assert_same(state, make_state(newest, width=512))
    assert newest > 0
