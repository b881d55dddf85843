import io
import json
import os
import re
from types import SimpleNamespace

import pytest
from tensorboardX.proto.event_pb2 import Event

from repre_jax.errors import UserError
from repre_jax.runs import logs as run_logs
from repre_jax.runs.folder import RunFolder
from repre_jax.runs.logs import RunLogs


class Terminal(io.StringIO):
    def isatty(self):
        return True


def open_logs(path, start_step=0, total_steps=100, stream=None, primary=True):
    folder = RunFolder(path, {}, primary=primary)
    return folder, RunLogs(
        folder,
        start_step=start_step,
        total_steps=total_steps,
        batch_size=32,
        stream=stream or io.StringIO(),
        primary=primary,
    )


def rows(folder):
    return [json.loads(line) for line in folder.metrics_path.read_text().splitlines()]


def close(folder, logs):
    logs.close()
    folder.close()


def events(folder):
    """Reads the TensorBoard files: little-endian length, its checksum, data, its checksum."""
    for path in sorted(folder.tensorboard.glob("events*")):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = Event()
            event.ParseFromString(data[12 : 12 + length])
            yield event
            data = data[12 + length + 4 :]


def test_one_row_for_each_log_step(tmp_path):
    folder, logs = open_logs(tmp_path)
    logs.log(10, {"loss": 2.0, "knn/top1": 0.5, "bad": float("nan")}, waited_seconds=0.0)
    logs.log(20, {"loss": 1.0}, waited_seconds=0.0)
    got = rows(folder)
    assert [row["step"] for row in got] == [10, 20]
    assert got[0]["loss"] == 2.0
    assert got[0]["knn/top1"] == 0.5
    assert got[0]["bad"] is None
    assert "bad" not in got[1]
    close(folder, logs)


@pytest.fixture
def clock(monkeypatch):
    """What the logs take for the time, in seconds; moved by hand."""
    clock = SimpleNamespace(now=100.0)
    clock.perf_counter = lambda: clock.now
    monkeypatch.setattr(run_logs, "time", clock)
    return clock


def test_speed_and_waiting(tmp_path, clock):
    folder, logs = open_logs(tmp_path)
    logs.log(1, {}, waited_seconds=5.0)  # compiling
    for step in (11, 21, 31):
        clock.now += 0.1
        with logs.paused():
            clock.now += 0.2  # an evaluation: neither slow nor waiting
        logs.log(step, {}, waited_seconds=5.0 + 0.05 * (step // 10))
    for row in rows(folder)[1:]:
        assert row["images_per_second"] == pytest.approx(10 * 32 / 0.1)
        assert row["input_bound"] == pytest.approx(0.5)
    assert logs.images_per_second == pytest.approx(10 * 32 / 0.1)
    logs.log(31, {"knn/top1": 0.5}, waited_seconds=5.2)
    assert "images_per_second" not in rows(folder)[-1]
    assert logs.wall_seconds == pytest.approx(0.9)
    close(folder, logs)


def test_resume_drops_later_rows_and_a_torn_line(tmp_path, clock):
    folder, logs = open_logs(tmp_path)
    for step in (10, 20, 30):
        logs.log(step, {"loss": step}, waited_seconds=0.0)
    close(folder, logs)
    with open(folder.metrics_path, "a") as file:
        file.write('{"step": 40, "lo')
    folder, logs = open_logs(tmp_path, start_step=20)
    assert [row["step"] for row in rows(folder)] == [10, 20]
    clock.now += 0.05
    logs.log(30, {"loss": 300}, waited_seconds=0.0)
    got = rows(folder)
    assert [row["loss"] for row in got] == [10, 20, 300]
    assert got[2]["wall_seconds"] >= got[1]["wall_seconds"] + 0.049, "wall time adds up"
    close(folder, logs)


def test_resume_from_the_start_drops_everything(tmp_path):
    folder, logs = open_logs(tmp_path)
    logs.log(10, {"loss": 1}, waited_seconds=0.0)
    close(folder, logs)
    folder, logs = open_logs(tmp_path, start_step=0)
    assert rows(folder) == []
    close(folder, logs)


def test_tensorboard_has_the_scalars_and_purges_on_resume(tmp_path):
    folder, logs = open_logs(tmp_path)
    logs.log(10, {"loss": 2.5}, waited_seconds=0.0)
    logs.log(20, {"loss": 1.5}, waited_seconds=0.0)
    close(folder, logs)
    scalars = {
        (value.tag, event.step): value.simple_value
        for event in events(folder)
        for value in event.summary.value
    }
    assert scalars[("loss", 10)] == 2.5
    assert scalars[("loss", 20)] == 1.5
    assert ("images_per_second", 20) in scalars
    folder, logs = open_logs(tmp_path, start_step=10)
    close(folder, logs)
    purges = [e.step for e in events(folder) if e.HasField("session_log")]
    assert 11 in purges


def test_lines_where_there_is_no_terminal(tmp_path):
    stream = io.StringIO()
    folder, logs = open_logs(tmp_path, total_steps=1000, stream=stream)
    for step in range(1, 1001):
        logs.log(step, {"loss": 1.25, "learning_rate": 0.0005}, waited_seconds=0.0)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 20, "one every five percent"
    assert lines[-1].startswith("step 1000/1000 (100 %), 0:00:00 left: loss 1.2500 | lr 5.00e-04")
    assert "images/s" in lines[-1]
    assert "input bound 0%" in lines[-1]
    logs.say("A sentence.")
    assert stream.getvalue().endswith("A sentence.\n")
    close(folder, logs)


def test_bar_on_a_terminal(tmp_path):
    terminal = Terminal()
    folder, logs = open_logs(tmp_path, stream=terminal)
    metrics = {
        "loss": 3.0,
        "loss/contrast": 2.5,
        "loss/reconstruct": 0.125,
        "weight/contrast": 0.93,
        "weight/reconstruct": 1.09,
        "learning_rate": 0.0005,
        "grad_norm": 1.5,
        "feature_std": 0.0512,
    }
    logs.log(50, metrics, waited_seconds=0.0)
    logs.log(100, metrics, waited_seconds=0.0)
    logs.say("Checkpoint [7] is damaged.")
    close(folder, logs)
    shown = " ".join(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue()).split())
    for part in (
        "step 100/100",
        "100 %",
        "0:00:00 left",
        "contrast 2.5000",
        "reconstruct 0.1250",
        "weight c 0.93",
        "weight r 1.09",
        "lr 5.00e-04",
        "grad norm 1.5",
        "feature std 0.0512",
        "images/s",
        "input bound",
        "Checkpoint [7] is damaged.",
    ):
        assert part in shown


def test_bad_files_are_listed_once_and_told_once(tmp_path):
    stream = io.StringIO()
    folder, logs = open_logs(tmp_path, stream=stream)
    logs.bad_file("a/b.jpg", "truncated")
    logs.bad_file("c.png")
    logs.bad_file("a/b.jpg", "truncated")
    assert folder.bad_files_path.read_text() == "a/b.jpg\ttruncated\nc.png\n"
    assert stream.getvalue().count("cannot be read") == 1
    assert "a/b.jpg cannot be read (truncated)" in stream.getvalue()
    close(folder, logs)
    # The next epoch of the resumed run meets the same files.
    folder, logs = open_logs(tmp_path, start_step=10)
    logs.bad_file("c.png")
    logs.bad_file("d.png", "not an\nimage")
    assert logs.bad_file_count == 3
    assert folder.bad_files_path.read_text().endswith("c.png\nd.png\tnot an image\n")
    for _ in range(2):  # names as the system gives them, which need not be text
        logs.bad_file(os.fsdecode(b"caf\xe9.png"), "empty")
    assert folder.bad_files_path.read_bytes().endswith(b"image\ncaf\xe9.png\tempty\n")
    assert logs.bad_file_count == 4
    close(folder, logs)


def test_summary_marks_the_run_as_finished(tmp_path):
    folder, logs = open_logs(tmp_path)
    logs.log(100, {"loss": 1.0}, waited_seconds=0.0)
    logs.bad_file("a.jpg")
    assert folder.summary is None
    logs.write_summary({"params_sha256": "abc", "knn/top1": 0.5})
    summary = folder.summary
    assert summary["steps"] == 100
    assert summary["bad_files"] == 1
    assert summary["params_sha256"] == "abc"
    assert summary["wall_seconds"] > 0
    assert summary["images_per_second"] > 0
    close(folder, logs)


def test_other_processes_only_list_bad_files(tmp_path):
    stream = io.StringIO()
    (tmp_path / "a").mkdir()
    folder, logs = open_logs(tmp_path / "a", primary=False, stream=stream)
    logs.log(10, {"loss": 1.0}, waited_seconds=0.0)
    logs.say("Nobody hears this.")
    logs.bad_file("x.jpg")
    logs.write_summary({})
    close(folder, logs)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["bad_files.txt"]
    assert stream.getvalue() == ""


def test_full_disk_is_one_sentence(tmp_path):
    folder, logs = open_logs(tmp_path)
    metrics_file = logs._destinations[0]
    metrics_file._file.close()
    # The device that is always full.
    metrics_file._file = open("/dev/full", "w")  # noqa: SIM115
    with pytest.raises(UserError, match=r"Cannot write .*metrics\.jsonl: no space is left"):
        logs.log(10, {"loss": 1.0}, waited_seconds=0.0)
    metrics_file._file = io.StringIO()
    close(folder, logs)


def test_summary_of_a_last_step_that_was_not_finite(tmp_path):
    folder, logs = open_logs(tmp_path)
    logs.log(1, {"loss": float("nan")}, waited_seconds=0.0)
    logs.write_summary({"loss": float("nan"), "knn/top1": 0.5, "few_label/protocol": "5 labels"})
    close(folder, logs)
    summary = json.loads(folder.summary_path.read_text())
    assert summary["loss"] is None
    assert (summary["knn/top1"], summary["few_label/protocol"]) == (0.5, "5 labels")
    assert summary["finished"]


def test_a_resumed_run_recalls_the_row_it_goes_on_from_and_the_speed(tmp_path):
    folder, logs = open_logs(tmp_path)
    assert logs.metrics_before == {}
    for step in (10, 20):
        logs.log(step, {"loss": step / 10}, waited_seconds=0.0)
    close(folder, logs)
    speed = rows(folder)[1]["images_per_second"]

    folder, logs = open_logs(tmp_path, start_step=20)
    assert logs.metrics_before == {"loss": 2.0}
    assert logs.images_per_second == speed, "the first interval compiled"
    close(folder, logs)
    # The checkpoint of step 15 was not logged.
    folder, logs = open_logs(tmp_path, start_step=15)
    assert logs.metrics_before == {}
    close(folder, logs)
