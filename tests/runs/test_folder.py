import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from repre_jax.errors import UserError
from repre_jax.runs import folder as run_folder
from repre_jax.runs.folder import RunFolder, config_differences, find_runs, write_json

CONFIG = {
    "seed": 0,
    "workdir": "runs/a",
    "optimizer": {"learning_rate": 0.0005, "warmup": 10},
    "repre": {"taps": (2, 5, 8, 11)},
}


def changed(**optimizer):
    return CONFIG | {"optimizer": CONFIG["optimizer"] | optimizer}


def begin(path):
    """A run that has begun."""
    folder = RunFolder(path, CONFIG)
    folder.write_config()
    folder.close()


def test_new_folder_holds_the_config(tmp_path):
    folder = RunFolder(tmp_path / "runs" / "a", CONFIG)
    folder.write_config()
    written = json.loads(folder.config_path.read_text())
    assert written["optimizer"] == CONFIG["optimizer"]
    assert written["repre"]["taps"] == [2, 5, 8, 11]
    assert folder.path.is_dir()
    assert folder.summary is None
    folder.close()


def test_same_config_resumes(tmp_path):
    begin(tmp_path)
    RunFolder(tmp_path, json.loads(json.dumps(CONFIG))).close()


def test_another_config_is_refused_with_the_difference(tmp_path):
    begin(tmp_path)
    other = changed(learning_rate=0.1) | {"method": {"name": "dino"}}
    with pytest.raises(UserError) as caught:
        RunFolder(tmp_path, other)
    message = str(caught.value)
    assert "optimizer.learning_rate: 0.0005 -> 0.1" in message
    assert 'method.name: absent -> "dino"' in message
    assert "warmup" not in message
    assert str(tmp_path) in message
    assert "\n" not in message
    # Refused means untouched, and unlocked again.
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 0
    RunFolder(tmp_path, CONFIG).close()


def test_a_folder_in_which_nothing_began_is_free(tmp_path):
    """What was refused for a setting shall run, mended, in the same folder."""
    RunFolder(tmp_path, CONFIG).close()
    assert not (tmp_path / "config.json").exists()
    RunFolder(tmp_path, changed(learning_rate=0.1)).close()


def test_ignored_keys_may_differ(tmp_path):
    begin(tmp_path)
    other = changed(warmup=20) | {"workdir": "elsewhere"}
    folder = RunFolder(tmp_path, other, ignore=("workdir", "optimizer"))
    assert json.loads(folder.config_path.read_text())["workdir"] != "elsewhere", "not yet its own"
    folder.write_config()
    assert json.loads(folder.config_path.read_text())["workdir"] == "elsewhere"
    folder.close()
    with pytest.raises(UserError, match="optimizer_name"):
        RunFolder(tmp_path, other | {"optimizer_name": "x"}, ignore=("optimizer",))


def test_differences_that_are_told_do_not_refuse(tmp_path):
    begin(tmp_path)
    other = changed(warmup=20) | {"workdir": "elsewhere"}
    folder = RunFolder(tmp_path, other, ignore=("workdir",), told=("optimizer.warmup",))
    assert [str(change) for change in folder.changes] == ["optimizer.warmup: 10 -> 20"]
    folder.write_config()
    folder.close()
    same = RunFolder(tmp_path, other, ignore=("workdir",), told=("optimizer.warmup",))
    assert same.changes == []
    same.close()
    with pytest.raises(UserError, match="learning_rate"):
        RunFolder(tmp_path, changed(learning_rate=1), told=("optimizer.warmup",))


def test_a_key_that_came_later_has_its_default_in_older_runs(tmp_path):
    begin(tmp_path)
    later = CONFIG | {"data": {"labels": "auto"}}
    with pytest.raises(UserError, match=r'data\.labels: absent -> "auto"'):
        RunFolder(tmp_path, later)
    RunFolder(tmp_path, later, defaults=later).close()
    other = CONFIG | {"data": {"labels": "none"}}
    with pytest.raises(UserError, match=r'data\.labels: "auto" -> "none"'):
        RunFolder(tmp_path, other, defaults=later)
    with pytest.raises(UserError, match="seed: 0 -> 1"):
        RunFolder(tmp_path, CONFIG | {"seed": 1}, defaults=CONFIG | {"seed": 1})


def test_many_differences_are_counted():
    old = {f"key{i:02d}": i for i in range(30)}
    assert len(config_differences(old, {})) == 30
    assert config_differences(old, old | {"key07": True}) == [("key07", "7", "true")]
    assert config_differences({"a": {}}, {"a": {"b": 1}}) == [
        ("a", "{}", "absent"),
        ("a.b", "absent", "1"),
    ]


def test_unreadable_config_is_an_error(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": ')
    with pytest.raises(UserError, match="cannot be read"):
        RunFolder(tmp_path, CONFIG)


def test_finished_run_is_recognised(tmp_path):
    folder = RunFolder(tmp_path, CONFIG)
    write_json(folder.summary_path, {"steps": 3})
    assert folder.summary is None, "only a summary marked as finished counts"
    folder.write_summary({"steps": 10})
    folder.close()
    folder = RunFolder(tmp_path, CONFIG)
    assert folder.summary == {"steps": 10, "finished": True}
    folder.summary_path.write_text('{"steps": 10, "fin')
    assert folder.summary is None
    folder.close()


def test_two_processes_cannot_share_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "_LOCK_PATIENCE_SECONDS", 0.2)
    code = (
        "import sys; from repre_jax.runs.folder import RunFolder;"
        "folder = RunFolder(sys.argv[1], {}); print('locked', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match=f"process {process.pid} on .* is training in"):
            RunFolder(tmp_path, {})
    finally:
        process.kill()
        process.communicate()
    RunFolder(tmp_path, {}).close()  # the lock of a killed run is gone


def test_a_file_system_without_locks_is_used_all_the_same(tmp_path, monkeypatch):
    def no_locks(*unused):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    folder = RunFolder(tmp_path / "run", CONFIG)
    assert folder.path.is_dir()
    folder.close()


def test_only_the_primary_process_locks_and_writes(tmp_path):
    RunFolder(tmp_path / "a", CONFIG, primary=False)
    assert not (tmp_path / "a").exists()
    primary = RunFolder(tmp_path / "a", CONFIG)
    RunFolder(tmp_path / "a", CONFIG, primary=False).close()
    primary.close()


def test_no_write_permission(tmp_path, monkeypatch):
    # A path under a regular file, for permissions do not stop root.
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"Cannot write .*file/run: a file of that name is in"):
        RunFolder(tmp_path / "file" / "run", CONFIG)

    def forbidden(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", forbidden)
    with pytest.raises(UserError, match=r"permission denied\. Make the folder writable"):
        RunFolder(tmp_path / "run", CONFIG)


def test_json_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_json(path, {"steps": 1})

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="no space is left"):
        write_json(path, {"steps": 2})
    assert json.loads(path.read_text()) == {"steps": 1}


def test_every_pattern_of_runs_must_match(tmp_path, monkeypatch):
    for name in ("a", "b1", "b2"):
        (tmp_path / name).mkdir()
    (tmp_path / "c.txt").write_text("")
    a, b1, b2 = (tmp_path / name for name in ("a", "b1", "b2"))

    def found(*patterns):
        text = ", ".join(str(tmp_path / pattern) for pattern in patterns)
        return find_runs(text, wanted=Path.is_dir, words="no folder")

    assert found("b*", "a", "b1") == [b1, b2, a]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_runs(f"{b1}, ~/a,", wanted=Path.is_dir, words="no folder") == [b1, a]
    with pytest.raises(UserError, match=r"bb, .*c\.txt' matches no folder;"):
        found("a", "bb", "c.txt")
    with pytest.raises(UserError, match="runs='' matches no folder;"):
        find_runs(" , ", wanted=Path.is_dir, words="no folder")
