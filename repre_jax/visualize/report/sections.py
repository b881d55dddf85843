"""What a page says of each run in words and tables: how it was made, where, from what."""

import json
from collections.abc import Iterable
from typing import Any

from repre_jax.image_size import size_in_words
from repre_jax.runs.trackers import without_passwords
from repre_jax.training import defaults
from repre_jax.training.explain import flat_keys
from repre_jax.visualize.report.elements import Child, Element, element
from repre_jax.visualize.report.recorded import RecordedRun

_MOST_FILES = 200


def about_run(name: str, run: RecordedRun, *, alone: bool) -> Element:
    """Command, config, environment and unreadable files of a run."""
    config = run.config
    repre = " with RePre" if config.repre.enabled else ""
    size = size_in_words(config.model.image_size)
    what = (
        f"{config.method.name}{repre} on {config.model.name}, {size} pixels, "
        f"batch {config.train.batch_size}, seed {config.seed}"
    )
    images = [
        f"{split}: {about.get('images', 0):,} images of {about.get('where', 'an unknown place')}."
        for split, about in run.images.items()
    ]
    return element(
        "section",
        element("h2", "The run" if alone else name),
        element("p", f"{what}."),
        [element("p", line) for line in images],
        _commands(run),
        _config(run),
        _summary(run),
        _environment(run),
        _unreadable(run),
        element("p", "Folder: ", element("code", str(run.path))),
    )


def evaluations(names: list[str], runs: list[RecordedRun]) -> list[Element]:
    """What ``eval/*/results.json`` of the runs hold."""
    rows = [
        [
            name,
            *(str(results.get(key, "-")) for key in ("task", "protocol", "line")),
            str(path.parent.relative_to(run.path)),
        ]
        for name, run in zip(names, runs, strict=True)
        for path, results in run.evaluations
    ]
    if not rows:
        return []
    head = ("run", "task", "protocol", "result", "folder")
    return [element("h2", "Evaluations"), _table(head, rows)]


def scrolled(table: Element) -> Element:
    """A table that scrolls sideways by itself, by keys, too, where the page is too narrow."""
    return element("div", table, class_="wide", tabindex="0")


def _commands(run: RecordedRun) -> list[Element]:
    typed = [start.get("command") for start in run.starts]
    known = list(dict.fromkeys(filter(None, typed)))
    if not known:
        return [element("p", "Which command made it was not noted.")]
    return [element("pre", without_passwords("\n".join(known)), tabindex="0")]


def _config(run: RecordedRun) -> Element:
    """Every key, with what differs from the defaults marked; the script adds the search."""
    usual = flat_keys(defaults.get_config(run.config.method.name))
    rows, changed = [], 0
    for key, value in flat_keys(run.config).items():
        differs = key not in usual or _as_json(usual[key]) != _as_json(value)
        changed += differs
        cells = [
            element("th", key, scope="row"),
            element("td", element("mark", _value(value)) if differs else _value(value)),
            element("td", (_value(usual[key]) if key in usual else "no such key") * differs),
        ]
        rows.append(element("tr", cells, class_="changed" if differs else None))
    head = [element("th", text, scope="col") for text in ("key", "value", "default, if another")]
    search = element(
        "label",
        "Search: ",
        element("input", type="search", placeholder="learning_rate", class_="search"),
        hidden=True,  # until the script that does it is there
    )
    only = element(
        "label",
        element("input", type="checkbox", class_="only-changed"),
        "only what differs",
    )
    table = element("table", element("thead", element("tr", head)), element("tbody", rows))
    return element(
        "details",
        element("summary", f"Config: {changed} of {len(rows)} keys differ from the defaults"),
        element("div", search, only, class_="tools"),
        scrolled(table),
        class_="config",
    )


def _summary(run: RecordedRun) -> Element | None:
    """What summary.json holds of a finished run."""
    if not run.summary:
        return None
    rows = [[key, _value(value)] for key, value in sorted(run.summary.items())]
    return element("details", element("summary", "Summary"), _table(("what", "value"), rows))


def _environment(run: RecordedRun) -> Element:
    rows = [
        [
            f"{start.get('step', 0):,}",
            str(start.get("date", "-")),
            str(start.get("commit") or "not a checkout"),
            str(start.get("devices", "-")),
            ", ".join(f"{name} {x}" for name, x in (start.get("versions") or {}).items()),
        ]
        for start in run.starts
    ]
    if not rows:
        return element("p", "Where it ran was not noted, as by older versions.")
    head = ("from step", "started", "commit", "devices", "versions")
    starts = f" of {len(rows)} starts" if len(rows) > 1 else ""
    return element("details", element("summary", f"Environment{starts}"), _table(head, rows))


def _unreadable(run: RecordedRun) -> Element:
    if not run.bad_files:
        return element("p", "No file was found that could not be read.")
    shown = [[name, reason or "-"] for name, reason in run.bad_files[:_MOST_FILES]]
    more = len(run.bad_files) - len(shown)
    return element(
        "details",
        element("summary", f"{len(run.bad_files):,} files could not be read"),
        _table(("file", "why"), shown),
        element("p", f"{more:,} more are in bad_files.txt.") if more else None,
    )


def _table(head: Iterable[str], rows: Iterable[Iterable[Child]]) -> Element:
    table = element(
        "table",
        element("thead", element("tr", [element("th", text, scope="col") for text in head])),
        element("tbody", [element("tr", [element("td", cell) for cell in row]) for row in rows]),
    )
    return scrolled(table)


def _value(value: Any) -> str:
    return without_passwords(value if isinstance(value, str) and value else _as_json(value))


def _as_json(value: Any) -> str:
    return json.dumps(value, default=str)
