"""report.html: a run, or several side by side, as one page that needs nothing but itself."""

import datetime
from collections.abc import Sequence
from pathlib import Path

import repre_jax
from repre_jax.errors import UserError
from repre_jax.runs.disk_errors import disk_trouble_told
from repre_jax.runs.folder import write_text
from repre_jax.visualize.report.charts import Line, chart, grouped, shown, title
from repre_jax.visualize.report.elements import Element, data, document, element
from repre_jax.visualize.report.pictures import figures
from repre_jax.visualize.report.recorded import Curve, RecordedRun, open_run
from repre_jax.visualize.report.references import Reference, references
from repre_jax.visualize.report.sections import about_run, evaluations, scrolled
from repre_jax.visualize.report.verdict import verdict

_HERE = Path(__file__).parent
MOST_RUNS = 8  # colours that can be told apart

Drawn = tuple[str, dict[str, Curve]]  # a name, and the curves under it


def write_report(paths: Sequence[Path], folder: Path, reference: str = "") -> Path:
    """Writes ``folder/report.html`` about the runs in ``paths`` and returns its path.

    Args:
      paths: folders of runs, finished or not.
      folder: made where it is not there.
      reference: as of ``references.references``.

    Raises:
      UserError: one is no run, they are too many, no such reference, or nothing can be written.
    """
    if len(paths) > MOST_RUNS:
        raise UserError(
            f"{len(paths)} runs are too many for one report, whose colours tell {MOST_RUNS} apart: "
            "name fewer."
        )
    runs = [open_run(path) for path in paths]
    written, path = page(runs, references(reference, runs)), folder / "report.html"
    with disk_trouble_told(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_text(path, written)
    return path


def page(runs: list[RecordedRun], beside: list[Reference]) -> str:
    """The page about ``runs``, with references beside them."""
    names = _names(runs)
    heading = names[0] if len(runs) == 1 else f"{len(runs)} runs side by side"
    lines = {
        f"run-{k}": (name, run.curves)
        for k, (name, run) in enumerate(zip(names, runs, strict=True))
    }
    dashed = {f"reference-{k}": (f"reference {r.name}", r.curves) for k, r in enumerate(beside)}
    charts, script_data = _charts(runs, lines, dashed)
    head = [
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"{heading} - repre_jax"),
        element("style", (_HERE / "page.css").read_text() + _switches([*lines, *dashed])),
    ]
    written = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    body = [
        element("header", element("h1", heading), _verdicts(names, runs)),
        element(
            "main",
            element(
                "section",
                element("h2", "Curves"),
                _legend({css: name for css, (name, _) in (lines | dashed).items()}),
                charts,
                _last_values(lines, dashed),
            ),
            _pictures(names, runs),
            evaluations(names, runs),
            [
                about_run(name, run, alone=len(runs) == 1)
                for name, run in zip(names, runs, strict=True)
            ],
            _about_references(beside),
        ),
        element("footer", f"Written {written} by repre_jax {repre_jax.__version__}."),
        data("curves", script_data),
        element("script", (_HERE / "page.js").read_text()),
    ]
    return document(head, body)


def _names(runs: list[RecordedRun]) -> list[str]:
    """Of the folders; their paths where two have the same."""
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.path) for run in runs]


def _verdicts(names: list[str], runs: list[RecordedRun]) -> list[Element]:
    found = []
    for k, (name, run) in enumerate(zip(names, runs, strict=True)):
        sentences = []
        for finding in verdict(run):
            tag = "strong" if finding.worrying else "span"
            sentences += [element(tag, finding.sentence), " "]
        head = [_sample(f"run-{k}"), element("b", name), ": "] if len(runs) > 1 else None
        found.append(element("p", head, sentences, class_="verdict"))
    return found


def _legend(names: dict[str, str]) -> Element:
    """Check boxes that show and hide a run; the style sheet does it, so no script is needed."""
    boxes = [
        element(
            "label",
            element("input", type="checkbox", checked=True, id=f"show-{css}"),
            _sample(css),
            name,
        )
        for css, name in names.items()
    ]
    return element("fieldset", element("legend", "Show"), boxes, class_="legend")


def _sample(css: str) -> Element:
    line = element("path", d="M0 5H28", class_=f"line {css}")
    return element("svg", line, viewBox="0 0 28 10", class_="sample", aria_hidden="true")


def _switches(classes: list[str]) -> str:
    return "".join(
        f"body:has(#show-{css}:not(:checked)) .plot .{css}{{display:none}}\n" for css in classes
    )


def _metrics(lines: dict[str, Drawn]) -> set[str]:
    return {metric for _, curves in lines.values() for metric in curves}


def _charts(
    runs: list[RecordedRun],
    lines: dict[str, Drawn],
    dashed: dict[str, Drawn],
) -> tuple[list[Element], dict]:
    """The charts by group, and what the script must know of them."""
    metrics = _metrics(lines)
    first = 0
    last = max(max(run.total_steps or 0, run.last_step) for run in runs)
    found, for_script = [], []
    if not metrics:
        found.append(element("p", "No step is logged yet, so there is nothing to draw."))
    for group, names in grouped(metrics).items():
        drawn = []
        for metric in names:
            of_metric = [
                Line(name, css, curves[metric])
                for css, (name, curves) in (dashed | lines).items()
                if metric in curves
            ]
            figure, points = chart(metric, of_metric, first, last)
            drawn.append(figure)
            for_script.append(points)
        found += [element("h3", group), element("div", drawn, class_="charts")]
    return found, {"first": first, "last": last, "charts": for_script}


def _last_values(lines: dict[str, Drawn], dashed: dict[str, Drawn]) -> Element | None:
    """The numbers behind the pictures, for those who cannot see them."""
    columns = [*lines.values(), *dashed.values()]
    rows = []
    for metric in (metric for group in grouped(_metrics(lines)).values() for metric in group):
        what, unit = title(metric)
        cells = [_last_value(metric, curves.get(metric)) for _, curves in columns]
        rows.append(
            element("tr", element("th", f"{what} {f'({unit})' * bool(unit)}", scope="row"), cells)
        )
    head = [element("th", name, scope="col") for name, _ in columns]
    table = element(
        "table",
        element("caption", "The last finite value of every metric"),
        element("thead", element("tr", element("th", "metric", scope="col"), head)),
        element("tbody", rows),
    )
    summary = element("summary", "Last values as a table")
    return element("details", summary, scrolled(table)) if rows else None


def _last_value(metric: str, curve: Curve | None) -> Element:
    if curve is None:
        return element("td", "-")
    steps, values = curve.finite
    lost = len(curve.values) - len(values)
    told = f"{shown(metric, values[-1])} (step {steps[-1]:,})" if len(values) else "none"
    return element("td", told + (f"; {lost:,} rows not finite" if lost else ""))


def _pictures(names: list[str], runs: list[RecordedRun]) -> list[Element]:
    found = []
    for name, run in zip(names, runs, strict=True):
        pictures = figures(run.pictures)
        if pictures:
            head = element("h3", name) if len(runs) > 1 else None
            found.append(element("section", head, element("div", pictures, class_="pictures")))
    return [element("h2", "Pictures"), *found] if found else []


def _about_references(beside: list[Reference]) -> list[Element]:
    if not beside:
        return []
    items = [
        element("li", f"{r.name}: commit {r.commit}, {r.date[:10]}, ", element("code", r.command))
        for r in beside
    ]
    told = "Dashed curves are runs of the project, each of one seed, thinned:"
    return [element("h2", "References"), element("p", told), element("ul", items)]
