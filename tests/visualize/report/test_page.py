"""The page: all of a run is in it, nothing of a user's becomes markup, nothing is fetched."""

import html.parser
import json
import shutil

import cv2
import numpy as np
import pytest
from recorded_runs import long_run, recorded_run, row
from whole_runs import ROOT

from repre_jax.errors import UserError
from repre_jax.visualize.report import page as report_page
from repre_jax.visualize.report.page import MOST_RUNS, write_report
from repre_jax.visualize.report.references import names, read_reference

EVIL = "<script>alert('x')</script>"
VOID = {"meta", "input", "img"}


class Parsed(html.parser.HTMLParser):
    """Elements and texts of a page; ``tags`` counts, ``open`` is what was never closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.texts.append(text)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def written(*runs, **options):
    path = write_report(runs, runs[0], **options)
    text = path.read_text(encoding="ascii")
    parsed = Parsed(text)
    assert parsed.open == [], "well-formed"
    assert parsed.tags.count("script") == 2, "the data and the page's own"
    return text, parsed


def test_one_run(tmp_path):
    run = recorded_run(tmp_path / "my_run", finished=True)
    start = {
        "step": 0,
        "date": "2026-01-02T03:04:05+00:00",
        "command": "python main.py --config=quickstart:smoke",
        "commit": "abc123",
        "devices": "8 x TPU v4",
        "versions": {"jax": "9.9.9"},
    }
    (run / "starts.jsonl").write_text(json.dumps(start) + "\n")
    (run / "eval" / "knn-target-4-ab").mkdir(parents=True)
    results = {"task": "knn", "protocol": "dino", "weights": "target", "step": 4}
    results["line"] = "k-NN top-1 87.31% (k = 20) of my_run, target weights, step 4"
    (run / "eval" / "knn-target-4-ab" / "results.json").write_text(json.dumps(results))
    text, parsed = written(run)
    for words in (
        "my_run",
        "Finished: 4 steps in 0:01:01.",
        "dino with RePre on vit_nano, 32 pixels, batch 16, seed 0",
        start["command"],
        "abc123",
        "8 x TPU v4",
        "jax 9.9.9",
        "Loss: contrast",
        "No file was found that could not be read.",
        results["line"],
        "eval/knn-target-4-ab",
    ):
        assert words in parsed.text, words
    assert "@import" not in text and "url(" not in text
    for name, value in parsed.attributes:
        assert name not in ("src", "href") or value.startswith("data:"), "nothing is fetched"


def test_what_users_name_their_files_is_never_markup(tmp_path):
    run = recorded_run(
        tmp_path / "<b>run & co</b>",
        bad_files=f"{EVIL}.jpg\t{EVIL}\nodd\udcff.jpg\t\n",
        overrides={"data.path": f"/images/{EVIL}"},
    )
    (run / "figures").mkdir()
    cv2.imwrite(str(run / "figures" / "<img src=x onerror=alert(1)>.png"), np.zeros((4, 4, 3)))
    (run / "eval" / "<i>").mkdir(parents=True)
    (run / "eval" / "<i>" / "results.json").write_text(json.dumps({"task": EVIL, "line": EVIL}))
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 5, f"loss/</script>{EVIL}": 1.0}) + "\n")
    start = {"command": f"python main.py {EVIL}", "versions": {EVIL: EVIL}, "commit": EVIL}
    (run / "starts.jsonl").write_text(json.dumps(start) + "\n")
    text, parsed = written(run)
    assert EVIL not in text
    assert not {"b", "i"} & set(parsed.tags) and parsed.tags.count("img") == 1
    assert f"/images/{EVIL}" in parsed.text, "it can be read all the same"
    assert f"{EVIL}.jpg" in parsed.text
    assert "odd\\udcff.jpg" in parsed.text
    assert "onerror" not in dict(parsed.attributes)


def test_passwords_in_urls_stay_at_home(tmp_path):
    run = recorded_run(tmp_path / "a", overrides={"logging.mlflow": "http://me:secret@host:5000"})
    start = {"command": "python main.py --config.logging.mlflow=http://me:secret@host:5000"}
    (run / "starts.jsonl").write_text(json.dumps(start) + "\n")
    text, parsed = written(run)
    assert "secret" not in text
    assert parsed.text.count("http://me:...@host:5000") == 2


def test_what_differs_from_the_defaults_is_marked(tmp_path):
    run = recorded_run(tmp_path / "a", config="dino_vits", overrides={"seed": 17})
    text, _ = written(run)
    assert '<tr class="changed"><th scope="row">seed</th><td><mark>17</mark></td><td>0</td>' in text
    assert '<tr><th scope="row">train.batch_size</th><td>1024</td><td></td></tr>' in text


def test_several_runs_of_different_lengths(tmp_path):
    long = recorded_run(tmp_path / "x" / "run", [row(k) for k in range(1, 9)])
    short = recorded_run(tmp_path / "y" / "run", [row(k) for k in range(1, 3)], config="mae_vitb")
    empty = recorded_run(tmp_path / "z", [])
    text, parsed = written(long, short, empty)
    assert "3 runs side by side" in parsed.text
    assert str(tmp_path / "x" / "run") in parsed.text, "names that are the same are told apart"
    for k in range(3):
        assert f'id="show-run-{k}"' in text
        assert f"body:has(#show-run-{k}:not(:checked))" in text
    assert 'class="line run-0"' in text and 'class="line run-1"' in text
    table = text[text.index("<caption>") : text.index("</table>")]
    assert "(step 8)" in table and "(step 2)" in table
    assert not (tmp_path / "z" / "report.html").exists()


def test_a_run_of_an_older_version_that_was_killed(tmp_path):
    old = shutil.copytree(ROOT / "tests" / "golden" / "run", tmp_path / "old")
    _, parsed = written(old)
    assert "Not finished: 2 of 4 steps (50%) are logged." in parsed.text
    assert "Which command made it was not noted." in parsed.text


def test_a_run_without_any_row(tmp_path):
    for name, text in (("a", ""), ("b", '{"step": 1, "lo')):
        run = recorded_run(tmp_path / name, [])
        (run / "metrics.jsonl").write_text(text)
        _, parsed = written(run)
        assert "No step is logged yet, so there is nothing to draw." in parsed.text
    (run / "metrics.jsonl").unlink()
    written(run)


def test_values_that_are_not_finite_are_counted(tmp_path):
    run = recorded_run(tmp_path / "a", [row(1), row(2, loss=None), row(3, loss=None)])
    _, parsed = written(run)
    assert "6 (step 1); 2 rows not finite" in parsed.text


def test_a_page_about_300_epochs_is_small(tmp_path):
    run = recorded_run(tmp_path / "a", long_run(10_000), config="dino_vits")
    text, _ = written(run)
    assert len(text) < 600_000


def test_pictures_are_inside_and_small(tmp_path):
    run = recorded_run(tmp_path / "a")
    (run / "figures").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (2000, 3000, 3), np.uint8)
    cv2.imwrite(str(run / "figures" / "large_one.png"), noise)
    cv2.imwrite(str(run / "figures" / "small.jpg"), noise[:20, :30])
    (run / "figures" / "torn.png").write_bytes(b"\x89PNG and no more")
    text, parsed = written(run)
    sources = [value for name, value in parsed.attributes if name == "src"]
    kinds = [source.partition(";")[0] for source in sources]
    assert kinds == ["data:image/webp", "data:image/jpeg"]
    assert len(sources[0]) < 3_000_000 < (run / "figures" / "large_one.png").stat().st_size
    assert ("width", "1400") in parsed.attributes and ("width", "30") in parsed.attributes
    assert "Picture: large one" in dict(parsed.attributes).values() or "large one" in text
    assert "torn.png cannot be shown" in parsed.text


def test_many_unreadable_files_are_counted(tmp_path):
    files = "".join(f"{k}.jpg\tempty\n" for k in range(1000))
    _, parsed = written(recorded_run(tmp_path / "a", bad_files=files))
    assert "1,000 files could not be read" in parsed.text
    assert "199.jpg" in parsed.text and "200.jpg" not in parsed.text
    assert "800 more are in bad_files.txt." in parsed.text


def test_more_runs_than_colours_are_refused(tmp_path):
    paths = [recorded_run(tmp_path / str(k)) for k in range(MOST_RUNS + 1)]
    with pytest.raises(UserError, match="9 runs are too many"):
        write_report(paths, tmp_path)


# ------------------------------------------------------------------------------------- references


def started(run, config):
    (run / "starts.jsonl").write_text(json.dumps({"config": config}) + "\n")
    return run


def test_a_run_of_the_same_config_file_has_its_reference(tmp_path):
    rows = [row(100), row(200)]
    run = recorded_run(tmp_path / "a", rows, config="imagenette_dino:swin,baseline")
    text, parsed = written(started(run, "imagenette_dino:baseline,swin"))
    assert "reference imagenette_dino-swin-baseline" in parsed.text
    assert 'class="line reference-0"' in text
    drawn = text.split('class="charts"')[1]
    assert drawn.index('class="line reference-0"') < drawn.index('class="line run-0"'), "under it"
    assert read_reference("imagenette_dino-swin-baseline").commit in parsed.text
    for other in ("imagenette_dino", "imagenette_moby:baseline,swin", None):
        text, _ = written(started(run, other))
        assert ("reference-0" in text.split("</style>")[1]) == (other == "imagenette_dino")
    text, _ = written(started(run, "imagenette_dino"), reference="none")
    assert "reference-0" not in text.split("</style>")[1]


def test_a_named_reference_must_be_there_and_of_the_method(tmp_path):
    run = recorded_run(tmp_path / "a")
    assert "reference imagenette_dino" in written(run, reference="imagenette_dino")[1].text
    with pytest.raises(UserError, match="did you mean imagenette_dino"):
        write_report([run], run, "imagenete_dino")
    with pytest.raises(UserError, match="a run of moby, and no run here is"):
        write_report([run], run, "imagenette_moby")


def test_a_reference_longer_than_the_run_ends_with_it(tmp_path):
    run = recorded_run(tmp_path / "a", [row(20)], overrides={"train.steps": 100})
    text, _ = written(run, reference="imagenette_dino")
    data = json.loads(text.split('id="curves"')[1].split(">", 1)[1].split("</script>")[0])
    assert data["last"] == 100
    steps = [s for c in data["charts"] for line in c["lines"] for s in line["steps"]]
    assert max(steps) == 100


def test_references_are_small_and_have_curves():
    assert len(names()) > 15
    for name in names():
        reference = read_reference(name)
        assert len(reference.curves["loss"].steps) > 5, name
        assert np.isfinite(reference.curves["knn/top1"].values).all()
        path = report_page.Path(report_page.__file__).parent / "references" / f"{name}.json"
        assert path.stat().st_size < 40_000
