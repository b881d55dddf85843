"""Weights & Biases and MLflow, which get the rows of metrics.jsonl as well: optional extras.

trackers/<name>.json   which run of the service a resumed run goes on with, and from which step
trackers/wandb/        what wandb has not sent yet, and its own logs

A thread of its own connects and sends, so that a service that is slow or away holds up no step and
stops no run: rows wait until it can be reached. What never gets there is said at the end, and
metrics.jsonl has it.
"""

import functools
import importlib.util
import json
import math
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from repre_jax.errors import UserError
from repre_jax.runs.destinations import Row
from repre_jax.runs.folder import RunFolder, write_json

_PATIENCE_SECONDS = 30.0  # at the end of a run, for what has not been sent
_MLFLOW_BATCH = 1000  # metrics, the most that its log_batch takes
_MLFLOW_PARAMETERS = 100  # likewise
_MLFLOW_TEXT = 6000  # characters of a parameter's value, likewise
_PASSWORD = re.compile(r"(://[^/\s:@]+):[^/\s@]+@")
_MLFLOW_URI = re.compile(r"databricks|uc|[a-z][a-z0-9+-]*:.+")


def chosen_trackers(logging: ConfigDict) -> dict[str, str]:
    """{"wandb": project, "mlflow": tracking URI} of those that the config asks for.

    Args:
      logging: section of a config.

    Raises:
      UserError: one is asked for whose package is missing, or the URI is none.
    """
    asked = {"wandb": logging.wandb, "mlflow": logging.mlflow}
    chosen = {name: value for name, value in asked.items() if value}
    if "mlflow" in chosen and not _MLFLOW_URI.fullmatch(chosen["mlflow"]):
        raise UserError(
            f"logging.mlflow={chosen['mlflow']!r} is no tracking URI: give that of a server, "
            "http://localhost:5000, or of a database, sqlite:///mlflow.db."
        )
    for name in chosen:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"logging.{name} needs the package {name}, which is not installed: "
                f"pip install 'repre_jax[{name}]' brings it."
            )
    return chosen


def without_passwords(text: str) -> str:
    """A text that leaves this machine: passwords in its URLs do not."""
    return _PASSWORD.sub(r"\1:...@", text)


class Service(Protocol):
    """A run at a service, once it has been reached."""

    def send(self, rows: list[tuple[float, Row]]) -> None:
        """Sends rows, each with the time at which it was written, in seconds since 1970."""

    def finish(self, *, finished: bool) -> None:
        """Ends the run there; ``finished`` says whether it came to its end here."""


Connect = Callable[[str, RunFolder, Callable[[str], None]], Service]


class Tracker:
    """A destination of rows that sends them from a thread of its own."""

    def __init__(
        self,
        name: str,
        connect: Callable[[], Service],
        say: Callable[[str], None],
        note_sent: Callable[[int], None],
    ):
        """Begins to connect; ``say`` prints a sentence, ``note_sent`` takes the last step sent."""
        self._name, self._connect, self._say, self._note_sent = name, connect, say, note_sent
        self._rows: queue.SimpleQueue[tuple[float, Row] | None] = queue.SimpleQueue()
        self._finished = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def write(self, row: Row) -> None:
        self._rows.put((time.time(), dict(row)))

    def close(self, *, finished: bool) -> None:
        """Waits for what has not been sent, but not for long."""
        self._finished = finished
        self._rows.put(None)
        self._thread.join(2 * _PATIENCE_SECONDS)  # the service itself has half of it to finish
        if self._thread.is_alive():
            self._say(
                f"{self._name} does not answer: some rows may be missing there; metrics.jsonl has "
                "all of them."
            )

    def _work(self) -> None:
        service, waiting, told = None, [], False
        more = True
        while more:
            waiting.append(self._rows.get())
            while not self._rows.empty():
                waiting.append(self._rows.get())
            if None in waiting:
                more = False
                waiting.remove(None)
            try:
                service = service or self._connect()
                service.send(waiting)
                sent, waiting = waiting, []
                if sent:
                    self._note_sent(max(int(row["step"]) for _, row in sent))
            except Exception as error:  # each service, and each network, has errors of its own
                if not told:
                    self._say(
                        f"{self._name} cannot be reached ({_short(error)}): the run goes on, and "
                        "its rows are sent once it can be."
                    )
                told = True
        if waiting:
            self._say(
                f"{len(waiting):,} rows did not reach {self._name}; metrics.jsonl has all of them."
            )
        if service is not None:
            try:
                service.finish(finished=self._finished)
            except Exception as error:
                self._say(f"{self._name} could not end its run ({_short(error)}).")


def open_trackers(
    chosen: Mapping[str, str],
    folder: RunFolder,
    earlier_rows: Iterable[Row],
    say: Callable[[str], None],
) -> list[Tracker]:
    """The trackers of a run; each gets the rows written before that have not reached it, too.

    Args:
      chosen: of ``chosen_trackers``.
      folder: of the run.
      earlier_rows: of the run so far.
      say: prints a sentence.
    """
    opened = []
    for name, place in chosen.items():
        sent = _last_step_sent(folder, name, place)
        connect = functools.partial(_SERVICES[name], place, folder, say)
        note_sent = functools.partial(_note_sent, folder, name)
        tracker = Tracker(name, connect, say, note_sent)
        for row in earlier_rows:
            if row["step"] > sent:
                tracker.write({key: value for key, value in row.items() if value is not None})
        opened.append(tracker)
    return opened


class WandbRun:
    """A run of Weights & Biases: kept on disk where the service cannot be reached."""

    def __init__(self, project: str, folder: RunFolder, say: Callable[[str], None]):
        """Goes on with the run that ``folder`` remembers, or begins one.

        Args:
          project: "<project>" or "<entity>/<project>".
          folder: of the run.
          say: prints a sentence.
        """
        import wandb  # seconds, and an extra

        known = _known_run(folder, "wandb", project)
        run = known or os.urandom(4).hex()
        entity, _, name = project.rpartition("/")
        kept = folder.path / "trackers"
        # Nothing of what is printed goes there, and the end of a run waits for no dead network.
        settings = wandb.Settings(console="off", silent=True, finish_timeout=_PATIENCE_SECONDS)
        options = {
            "project": name,
            "entity": entity or None,
            "id": run,
            "resume": "allow",
            "name": folder.path.name,
            "dir": str(kept),
            "config": _public_config(folder),
            "settings": settings,
        }
        try:
            online = wandb.setup().settings.mode in (None, "online")
            if online and not wandb.login(prompt=False):  # a prompt would sit in the progress bar
                raise wandb.errors.UsageError("no API key: `wandb login` stores one")
            self._run = wandb.init(**options)
        except wandb.errors.Error as error:
            say(
                f"wandb cannot be reached ({_short(error)}): the run goes on and is kept in "
                f"{kept / 'wandb'}; `wandb sync` sends it."
            )
            self._run = wandb.init(**options, mode="offline")
        # Its own steps only go up: a measurement that a stop has left out is of an earlier one.
        self._run.define_metric("*", step_metric="step")
        if not known:
            _remember(folder, "wandb", project, run)

    def send(self, rows: list[tuple[float, Row]]) -> None:
        # Steps that a resumed run makes again come twice, with the same values.
        for _, row in rows:
            self._run.log(dict(row))

    def finish(self, *, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


class MlflowRun:
    """A run of MLflow, in the experiment MLFLOW_EXPERIMENT_NAME or else "repre_jax"."""

    def __init__(self, uri: str, folder: RunFolder, say: Callable[[str], None]):
        """Goes on with the run that ``folder`` remembers, or begins one at ``uri``."""
        # Its own retries would take minutes; here every row is another try.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        from mlflow import entities, tracking  # seconds, and an extra

        del say  # what goes wrong is raised
        self._entities = entities
        self._client = tracking.MlflowClient(tracking_uri=uri)
        known = _known_run(folder, "mlflow", uri)
        if known:
            self._run = known
            self._client.update_run(known, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "repre_jax")
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        self._run = self._client.create_run(number, run_name=folder.path.name).info.run_id
        parameters = [
            entities.Param(key, str(value)[:_MLFLOW_TEXT])
            for key, value in flatten_dict(_public_config(folder), sep=".").items()
        ]
        for part in _parts(parameters, _MLFLOW_PARAMETERS):
            self._client.log_batch(self._run, params=part)
        _remember(folder, "mlflow", uri, self._run)  # a run without them is begun anew

    def send(self, rows: list[tuple[float, Row]]) -> None:
        # Steps that a resumed run makes again come twice, with the same values.
        metrics = [
            self._entities.Metric(key, float(value), int(1000 * written), int(row["step"]))
            for written, row in rows
            for key, value in row.items()
            if key != "step"
        ]
        for part in _parts(metrics, _MLFLOW_BATCH):
            self._client.log_batch(self._run, metrics=part)

    def finish(self, *, finished: bool) -> None:
        self._client.set_terminated(self._run, "FINISHED" if finished else "KILLED")


_SERVICES: dict[str, Connect] = {"wandb": WandbRun, "mlflow": MlflowRun}


def _known_run(folder: RunFolder, name: str, place: str) -> str | None:
    """The run of ``place`` that the folder remembers; None for another place's, and for none."""
    return _remembered(folder, name, place).get("run")


def _last_step_sent(folder: RunFolder, name: str, place: str) -> float:
    """0 for a run that is not remembered; infinity for one of a version that noted no steps."""
    about = _remembered(folder, name, place)
    return about.get("last_step_sent", math.inf) if about else 0


def _remembered(folder: RunFolder, name: str, place: str) -> dict[str, Any]:
    try:
        about = json.loads(_about(folder, name).read_text())
        return about if about["place"] == place and "run" in about else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _public_config(folder: RunFolder) -> dict[str, Any]:
    return json.loads(without_passwords(json.dumps(folder.config)))


def _remember(folder: RunFolder, name: str, place: str, run: str) -> None:
    path = _about(folder, name)
    path.parent.mkdir(exist_ok=True)
    write_json(path, {"place": place, "run": run, "last_step_sent": 0})


def _note_sent(folder: RunFolder, name: str, step: int) -> None:
    path = _about(folder, name)
    about = json.loads(path.read_text())
    # Steps that are made again were sent before, and so were those after them.
    last = max(step, about.get("last_step_sent", step))
    write_json(path, about | {"last_step_sent": last})


def _about(folder: RunFolder, name: str) -> Path:
    return folder.path / "trackers" / f"{name}.json"


def _parts(values: list[Any], size: int) -> Iterable[list[Any]]:
    return (values[k * size : (k + 1) * size] for k in range(math.ceil(len(values) / size)))


def _short(error: BaseException) -> str:
    """Type and first line of an error, for a service's may be pages."""
    line = next(iter(str(error).strip().splitlines()), "")[:160]
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
