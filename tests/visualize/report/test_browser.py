"""The page in a browser, where there is one: errors, speed, width, cursor, switches, search."""

import json
import queue
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from recorded_runs import long_run, recorded_run, row

from repre_jax.visualize.report.page import write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
ROWS_OF_300_EPOCHS = 10_000

# Notes errors from the start; when all is drawn, uses the page as a person would.
PROBE = """<script>
const errors = [];
addEventListener("error", (event) => errors.push(String(event.message)));
console.error = console.warn = (...words) => errors.push(words.join(" "));
const frames = (then) => requestAnimationFrame(() => requestAnimationFrame(then));
const hover = (plot) => {
  const box = plot.getBoundingClientRect();
  plot.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + box.width / 2}));
};
const readouts = () => [...document.querySelectorAll(".readout")]
  .map((x) => [...x.children].map((part) => part.textContent).join("; "));
const visible = (css) => [...document.querySelectorAll(`.plot .${css}`)]
  .filter((x) => getComputedStyle(x).display !== "none").length;
addEventListener("load", () => frames(() => {
  const received = performance.getEntriesByType("navigation")[0].responseEnd;
  const found = {seconds: (performance.now() - received) / 1000};
  found.requests = performance.getEntriesByType("resource").map((x) => x.name)
    .filter((name) => !name.startsWith("data:"));
  found.beyond = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  found.dark = getComputedStyle(document.body).backgroundColor;
  found.errors = errors;
  const post = () => fetch("/found", {method: "POST", body: JSON.stringify(found)});
  if (!document.querySelector(".plot")) return post();
  hover(document.querySelector(".plot"));
  frames(() => {
    found.readouts = readouts();
    const plot = document.querySelector(".plot");
    plot.focus();
    plot.dispatchEvent(new KeyboardEvent("keydown", {key: "Home"}));
    frames(() => {
      found.at_home = readouts()[0];
      found.before = visible("run-0");
      const box = document.getElementById("show-run-0");
      box.click();
      found.after = visible("run-0");
      box.click();
      const search = document.querySelector(".search");
      search.value = "learning_rate";
      search.dispatchEvent(new Event("input"));
      const config = document.querySelector(".config");
      found.rows = [...config.querySelectorAll("tbody tr:not(.hidden)")].map((x) => x.textContent);
      post();
    });
  });
}));
</script>"""


def browser() -> str | None:
    return next(filter(None, map(shutil.which, BROWSERS)), None)


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser() is None, reason="there is no Chromium"),
]


def used(page: Path, width: int, *options: str) -> dict:
    """What ``PROBE`` finds in a page in a window of that width, in CSS pixels."""
    probed = page.read_text().replace("<head>", f"<head>{PROBE}", 1)
    # A window is at least 500 pixels wide; a frame in it is as wide as one likes.
    frame = f'<iframe src="/probed" style="width:{width}px;height:900px;border:0"></iframe>'
    pages = {"/": frame, "/probed": probed}
    found = queue.SimpleQueue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path in pages else 404)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(pages.get(self.path, "").encode())

        def do_POST(self):
            found.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000"]
        flags += ["--remote-debugging-port=0", f"--user-data-dir={page.parent / 'profile'}"]
        process = subprocess.Popen(
            [browser(), *flags, *options, address],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            return found.get(timeout=60)
        finally:
            process.terminate()
            process.wait(30)
            server.shutdown()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Of two runs of 300 epochs, one with few rows more."""
    folder = tmp_path_factory.mktemp("report")
    rows = long_run(ROWS_OF_300_EPOCHS)
    recorded_run(folder / "a", rows, config="dino_vits", finished=True)
    recorded_run(folder / "b", rows[: len(rows) // 3], config="dino_vits")
    return write_report([folder / "a", folder / "b"], folder)


@pytest.mark.parametrize("width", [360, 1200])
def test_300_epochs_are_drawn_at_once_and_fit(page, width):
    opened = [used(page, width) for _ in range(3)]
    for found in opened:
        assert (found["errors"], found["requests"]) == ([], [])
        assert found["beyond"] == 0, "nothing sticks out"
    # Others may keep the machine busy for a moment.
    assert min(found["seconds"] for found in opened) < 1


def test_cursor_switches_and_search(page):
    found = used(page, 1200)
    of_a, of_b = found["readouts"][0].split("; ")
    middle = int(of_a.rpartition(" at ")[2].replace(",", ""))
    assert abs(middle - 250_000) < 1000, "the middle of 500,000 steps"
    assert of_b.endswith("at 166,650"), "the other run ends before"
    assert all(found["readouts"]), "the charts share the cursor"
    assert "at 50" in found["at_home"]
    assert (found["before"] > 10, found["after"]) == (True, 0)
    assert 1 <= len(found["rows"]) <= 10
    assert all("learning_rate" in text for text in found["rows"])


def test_colours_follow_the_system(page):
    light = used(page, 1200)["dark"]
    dark = used(page, 1200, "--blink-settings=preferredColorScheme=0")["dark"]
    assert (light, dark) == ("rgb(255, 255, 255)", "rgb(20, 23, 27)")


@pytest.mark.parametrize("steps", [0, 1])
def test_runs_that_have_hardly_begun(tmp_path, steps):
    run = recorded_run(tmp_path / "run", [row(step) for step in range(1, steps + 1)])
    found = used(write_report([run], tmp_path), 360)
    assert (found["errors"], found["beyond"]) == ([], 0)
    assert ("readouts" in found) == bool(steps)
