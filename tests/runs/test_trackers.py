"""wandb and MLflow: stand-ins in the fast tier, the packages, where they are, in the slow one."""

import importlib.machinery
import io
import json
import sys
import threading
import types
from pathlib import Path
from types import SimpleNamespace

import pytest
from whole_runs import command

from repre_jax.errors import UserError
from repre_jax.runs import trackers
from repre_jax.runs.folder import RunFolder
from repre_jax.runs.logs import RunLogs
from repre_jax.runs.trackers import chosen_trackers
from repre_jax.training import defaults


def write_rows(path, chosen, steps, start_step=0, finished=False) -> str:
    """Logs a row for each step into the run ``path`` and returns what was said."""
    stream = io.StringIO()
    folder = RunFolder(path, {"method": {"name": "dino"}, "seed": 0})
    logs = RunLogs(
        folder,
        start_step=start_step,
        total_steps=100,
        batch_size=8,
        trackers=chosen,
        stream=stream,
    )
    for step in steps:
        logs.log(step, {"loss": 1 / step}, waited_seconds=0.0)
    if finished:
        logs.write_summary({})
    logs.close()
    folder.close()
    return stream.getvalue()


@pytest.fixture
def package(monkeypatch):
    """Function: puts a stand-in where ``import name`` finds it."""

    def put(name: str, **attributes) -> types.ModuleType:
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return put


class Unreachable(Exception):
    pass


@pytest.fixture
def wandb(package):
    """A stand-in for wandb: ``runs`` are what it was asked for, ``away`` cuts the network."""
    fake = SimpleNamespace(runs=[], away=False, key=True, broken=False)

    class Run(SimpleNamespace):
        def log(self, row):
            self.rows.append((row["step"], row["loss"]))

        def define_metric(self, name, step_metric):
            self.axis[name] = step_metric

        def finish(self, exit_code):
            self.exit_code = exit_code

    def init(**options):
        if fake.away and options.get("mode") != "offline":
            raise Unreachable("no route to host")
        if fake.broken:
            raise OSError("a service that does not start")
        fake.runs.append(Run(options=options, rows=[], exit_code=None, axis={}))
        return fake.runs[-1]

    package(
        "wandb",
        init=init,
        login=lambda prompt: fake.key,
        setup=lambda: SimpleNamespace(settings=SimpleNamespace(mode="online")),
        Settings=SimpleNamespace,
        errors=SimpleNamespace(Error=Unreachable, UsageError=Unreachable),
    )
    return fake


@pytest.fixture
def mlflow(package):
    """A stand-in for MLflow: a server's runs by id; ``away`` cuts so many calls off."""
    fake = SimpleNamespace(runs={}, away=0, away_for_parameters=0)

    def reach(calls="away"):
        if getattr(fake, calls):
            setattr(fake, calls, getattr(fake, calls) - 1)
            raise Unreachable("no route to host")

    class Client:
        def __init__(self, tracking_uri):
            self.uri = tracking_uri

        def get_experiment_by_name(self, name):
            reach()

        def create_experiment(self, name):
            return "1"

        def create_run(self, experiment, run_name):
            run = f"run-{len(fake.runs)}"
            fake.runs[run] = SimpleNamespace(rows=[], params={}, status="RUNNING", name=run_name)
            return SimpleNamespace(info=SimpleNamespace(run_id=run))

        def update_run(self, run, status):
            fake.runs[run].status = status

        set_terminated = update_run

        def log_batch(self, run, metrics=(), params=()):
            assert len(metrics) <= 1000 and len(params) <= 100
            reach("away_for_parameters" if params else "away")
            fake.runs[run].rows += [(m.step, m.value) for m in metrics if m.key == "loss"]
            fake.runs[run].params |= {p.key: p.value for p in params}

    def metric(key, value, timestamp, step):
        return SimpleNamespace(key=key, value=value, timestamp=timestamp, step=step)

    entities = SimpleNamespace(
        Metric=metric, Param=lambda key, value: SimpleNamespace(key=key, value=value)
    )
    package("mlflow", entities=entities, tracking=SimpleNamespace(MlflowClient=Client))
    return fake


def test_nothing_is_tracked_by_default():
    assert chosen_trackers(defaults.get_config("dino").logging) == {}


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_names_its_extra(name, monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    config = defaults.get_config("dino")
    config.logging[name] = "sqlite:///somewhere.db"
    with pytest.raises(UserError, match=rf"pip install 'repre_jax\[{name}\]'"):
        chosen_trackers(config.logging)


def test_a_folder_is_no_tracking_uri(mlflow):
    config = defaults.get_config("dino")
    config.logging.mlflow = "runs/mlflow"
    with pytest.raises(UserError, match=r"'runs/mlflow' is no tracking URI"):
        chosen_trackers(config.logging)


def test_a_run_is_refused_before_anything_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    run = tmp_path / "run"
    smoke = ["--config=quickstart:smoke", f"--workdir={run}"]
    assert command(*smoke, "--config.logging.mlflow=http://localhost:5000") == 2
    assert "needs the package mlflow" in capsys.readouterr().err
    assert not run.exists()


def test_the_rows_go_to_wandb_and_a_resumed_run_goes_on_there(wandb, tmp_path):
    chosen = {"wandb": "team/vision"}
    assert write_rows(tmp_path / "run", chosen, [1, 2]) == ""
    write_rows(tmp_path / "run", chosen, [2, 3], start_step=1, finished=True)
    first, second = wandb.runs
    assert (first.options["entity"], first.options["project"]) == ("team", "vision")
    assert first.options["id"] == second.options["id"] and second.options["resume"] == "allow"
    assert first.options["config"]["method"] == {"name": "dino"}
    assert first.rows == [(1, 1.0), (2, 0.5)]
    assert second.rows == [(2, 0.5), (3, 1 / 3)]
    assert (first.exit_code, second.exit_code) == (1, 0), "only the second came to its end"


def test_a_step_that_is_measured_later_reaches_wandb(wandb, tmp_path):
    """A stop leaves a measurement out: the step comes again, and wandb's own steps only go up."""
    write_rows(tmp_path / "run", {"wandb": "a"}, [1, 2])
    write_rows(tmp_path / "run", {"wandb": "a"}, [2], start_step=2, finished=True)
    _, second = wandb.runs
    assert second.rows == [(2, 0.5)]
    assert second.axis == {"*": "step"}


def test_a_run_that_never_began_at_wandb_gets_all_rows_later(wandb, tmp_path):
    wandb.broken = True
    said = write_rows(tmp_path / "run", {"wandb": "a"}, [1, 2])
    assert "wandb cannot be reached (OSError" in said
    assert "2 rows did not reach wandb" in said
    wandb.broken = False
    write_rows(tmp_path / "run", {"wandb": "a"}, [3], start_step=2)
    assert [step for step, _ in wandb.runs[-1].rows] == [1, 2, 3]


def test_another_project_gets_another_run_with_all_rows(wandb, tmp_path):
    write_rows(tmp_path / "run", {"wandb": "a"}, [1, 2])
    write_rows(tmp_path / "run", {"wandb": "b"}, [3], start_step=2)
    first, second = wandb.runs
    assert first.options["id"] != second.options["id"]
    assert [step for step, _ in second.rows] == [1, 2, 3]


@pytest.mark.parametrize("fault", ["away", "no key"])
def test_without_network_or_key_wandb_keeps_the_run_on_disk(wandb, tmp_path, fault):
    wandb.away, wandb.key = fault == "away", fault != "no key"
    said = write_rows(tmp_path / "run", {"wandb": "a"}, [1])
    assert said.count("wandb cannot be reached") == 1
    assert f"kept in {tmp_path / 'run' / 'trackers' / 'wandb'}" in said
    (run,) = wandb.runs
    assert run.options["mode"] == "offline"
    assert run.rows == [(1, 1.0)]


def test_the_rows_go_to_mlflow_and_a_resumed_run_goes_on_there(mlflow, tmp_path):
    chosen = {"mlflow": "sqlite:///m.db"}
    write_rows(tmp_path / "run", chosen, [1, 2])
    (run,) = mlflow.runs.values()
    assert (run.name, run.status) == ("run", "KILLED")
    assert run.params == {"method.name": "dino", "seed": "0"}
    write_rows(tmp_path / "run", chosen, [3], start_step=2, finished=True)
    assert run.rows == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert (len(mlflow.runs), run.status) == (1, "FINISHED")


def test_rows_that_mlflow_missed_are_sent_when_the_run_goes_on(mlflow, tmp_path):
    chosen = {"mlflow": "http://host:1"}
    write_rows(tmp_path / "run", chosen, [1, 2])
    mlflow.away = 10**6
    said = write_rows(tmp_path / "run", chosen, [3], start_step=2)
    assert "1 rows did not reach mlflow" in said
    mlflow.away = 0
    write_rows(tmp_path / "run", chosen, [4], start_step=3)
    (run,) = mlflow.runs.values()
    assert [step for step, _ in run.rows] == [1, 2, 3, 4]


def test_a_run_of_an_older_version_has_its_rows_at_the_service(mlflow, tmp_path):
    chosen, about = {"mlflow": "http://host:1"}, tmp_path / "run" / "trackers" / "mlflow.json"
    write_rows(tmp_path / "run", chosen, [1])
    known = json.loads(about.read_text())
    assert known.pop("last_step_sent") == 1
    about.write_text(json.dumps(known))
    write_rows(tmp_path / "run", chosen, [2], start_step=1)
    (run,) = mlflow.runs.values()
    assert [step for step, _ in run.rows] == [1, 2]


def test_parameters_that_did_not_reach_mlflow_are_sent_again(mlflow, tmp_path):
    mlflow.away_for_parameters = 1
    write_rows(tmp_path / "run", {"mlflow": "http://host:1"}, [1])  # there is time to try, maybe
    write_rows(tmp_path / "run", {"mlflow": "http://host:1"}, [2], start_step=1)
    known = json.loads((tmp_path / "run" / "trackers" / "mlflow.json").read_text())["run"]
    assert mlflow.runs[known].params == {"method.name": "dino", "seed": "0"}
    assert mlflow.runs[known].rows == [(1, 1.0), (2, 0.5)]


@pytest.mark.parametrize("service", ["wandb", "mlflow"])
def test_passwords_are_not_sent(wandb, mlflow, tmp_path, service):
    folder = RunFolder(tmp_path, {"logging": {"mlflow": "http://me:secret@host:5000/a"}})
    sent = []
    trackers._SERVICES[service]("x", folder, sent.append)
    folder.close()
    if service == "wandb":
        assert wandb.runs[0].options["config"]["logging"]["mlflow"] == "http://me:...@host:5000/a"
    else:
        assert mlflow.runs["run-0"].params["logging.mlflow"] == "http://me:...@host:5000/a"


def test_many_rows_go_to_mlflow_in_parts(mlflow, tmp_path):
    write_rows(tmp_path / "run", {}, range(1, 1001))
    write_rows(tmp_path / "run", {"mlflow": "sqlite:///m.db"}, [1001], start_step=1000)
    (run,) = mlflow.runs.values()
    assert [step for step, _ in run.rows] == list(range(1, 1002))


def test_rows_wait_while_the_server_is_away(mlflow, tmp_path):
    mlflow.away = 1
    folder, stream = RunFolder(tmp_path, {}), Said()
    logs = RunLogs(
        folder,
        start_step=0,
        total_steps=9,
        batch_size=1,
        trackers={"mlflow": "http://away:1"},
        stream=stream,
    )
    logs.log(1, {"loss": 1.0}, waited_seconds=0.0)
    assert stream.reached.wait(10)
    logs.log(2, {"loss": 0.5}, waited_seconds=0.0)
    logs.close()
    folder.close()
    (run,) = mlflow.runs.values()
    assert run.rows == [(1, 1.0), (2, 0.5)]
    assert stream.getvalue().count("mlflow cannot be reached (Unreachable: no route") == 1


class Said(io.StringIO):
    """What is said, and whether anything has been said about a service that is away."""

    def __init__(self):
        super().__init__()
        self.reached = threading.Event()

    def write(self, text):
        super().write(text)
        if "cannot be reached" in text:
            self.reached.set()


def test_rows_that_never_arrive_are_counted(mlflow, tmp_path):
    mlflow.away = 10**6
    said = write_rows(tmp_path / "run", {"mlflow": "http://away:1"}, [1, 2, 3])
    assert "3 rows did not reach mlflow; metrics.jsonl has all of them." in said
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_service_that_hangs_does_not_keep_the_run(mlflow, tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "_PATIENCE_SECONDS", 0.05)
    hangs = threading.Event()
    monkeypatch.setitem(trackers._SERVICES, "mlflow", lambda *_: hangs.wait(60))
    said = write_rows(tmp_path / "run", {"mlflow": "http://slow:1"}, [1])
    assert "mlflow does not answer" in said
    hangs.set()


STEPS_AND_LOSSES = [(1, 1.0), (2, 1 / 2), (3, 1 / 3)]


@pytest.fixture
def wandb_itself(tmp_path, monkeypatch):
    """The package, without what it remembers of this process and without a key of the user's."""
    wandb = pytest.importorskip("wandb")
    for name in ("HOME", "NETRC"):
        monkeypatch.setenv(name, str(tmp_path / "nobody"))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    wandb.teardown()
    yield wandb
    wandb.teardown()


@pytest.mark.slow
def test_wandb_itself_offline(wandb_itself, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert write_rows(tmp_path / "run", {"wandb": "tests"}, [1, 2, 3], finished=True) == ""
    known = json.loads((tmp_path / "run" / "trackers" / "wandb.json").read_text())["run"]
    wandb_itself.teardown()  # its own process may still be writing
    (kept,) = (tmp_path / "run" / "trackers" / "wandb").glob(f"offline-run-*/run-{known}.wandb")
    assert rows_of_wandb(kept) == STEPS_AND_LOSSES


@pytest.mark.slow
def test_wandb_itself_without_a_key(wandb_itself, tmp_path):
    said = write_rows(tmp_path / "run", {"wandb": "tests"}, [1, 2, 3], finished=True)
    assert "no API key: `wandb login` stores one" in said
    wandb_itself.teardown()
    (kept,) = (tmp_path / "run" / "trackers" / "wandb").glob("offline-run-*/run-*.wandb")
    assert rows_of_wandb(kept) == STEPS_AND_LOSSES


@pytest.mark.slow
def test_mlflow_itself_in_a_database(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    run, uri = tmp_path / "run", f"sqlite:///{tmp_path / 'mlflow.db'}"
    write_rows(run, {"mlflow": uri}, [1, 2])
    assert write_rows(run, {"mlflow": uri}, [3], start_step=2, finished=True) == ""
    known = json.loads((run / "trackers" / "mlflow.json").read_text())["run"]
    client = mlflow.tracking.MlflowClient(tracking_uri=uri)
    about = client.get_run(known)
    assert (about.info.run_name, about.info.status) == ("run", "FINISHED")
    assert about.data.params == {"method.name": "dino", "seed": "0"}
    history = client.get_metric_history(known, "loss")
    assert [(m.step, m.value) for m in history] == STEPS_AND_LOSSES


def rows_of_wandb(path: Path) -> list[tuple[int, float]]:
    """Steps and losses in the file of an offline run: protobuf records in LevelDB's log format."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, part, found = path.read_bytes(), 7, b"", []  # after wandb's own header
    while place + 7 <= len(data):
        left_in_block = 32768 - place % 32768
        if left_in_block < 7:
            place += left_in_block
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        part += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record, part = Record.FromString(part), b""
            if record.WhichOneof("record_type") == "history":
                items = {"".join(i.nested_key) or i.key: i.value_json for i in record.history.item}
                found.append((int(items["step"]), float(items["loss"])))
    return found
