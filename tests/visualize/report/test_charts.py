"""Thinning that keeps spikes, scales, groups: what a chart shows is what was logged."""

import numpy as np
import pytest

from repre_jax.visualize.report.charts import Line, Scale, chart, grouped, shown, thinned, title
from repre_jax.visualize.report.recorded import Curve


def curve(values, steps=None):
    return Curve(np.arange(len(values)) if steps is None else np.array(steps), np.array(values))


def test_thinning_keeps_spikes_ends_and_order():
    values = np.sin(np.arange(10_000) / 900.0)
    values[[3333, 7777]] = 50.0, -50.0
    (piece,) = thinned(curve(values), 0, 9999, columns=100)
    assert len(piece.steps) <= 202
    assert (np.diff(piece.steps) > 0).all()
    assert {0, 3333, 7777, 9999} <= set(piece.steps)
    np.testing.assert_array_equal(values[piece.steps], piece.values)


def test_every_column_keeps_its_lowest_and_highest():
    values = np.random.default_rng(0).normal(size=1000)
    (piece,) = thinned(curve(values), 0, 999, columns=10)
    for column in range(10):
        mine = np.arange(1000) * 10 // 999 == column
        kept = piece.values[np.isin(piece.steps, np.flatnonzero(mine))]
        assert (kept.min(), kept.max()) == (values[mine].min(), values[mine].max())


def test_few_points_stay_as_they_are():
    (piece,) = thinned(curve([3.0, 1.0, 2.0], [10, 500, 900]), 0, 1000)
    assert piece.steps.tolist() == [10, 500, 900]
    assert piece.values.tolist() == [3.0, 1.0, 2.0]


def test_what_is_not_finite_is_a_gap():
    pieces = thinned(curve([1.0, 2.0, np.nan, np.inf, 3.0, np.nan]), 0, 5)
    assert [piece.steps.tolist() for piece in pieces] == [[0, 1], [4]]


def test_points_beyond_the_chart_are_left_out():
    (piece,) = thinned(curve([1.0, 2.0, 3.0], [1, 2, 3]), 0, 2)
    assert piece.steps.tolist() == [1, 2]


@pytest.mark.parametrize("logarithmic", [False, True])
def test_scales_put_ends_at_the_ends(logarithmic):
    scale = Scale(1.0, 100.0, logarithmic)
    np.testing.assert_allclose(scale.place(np.array([1.0, 100.0])), [0, 1])
    assert scale.place(np.array([10.0]))[0] == pytest.approx(0.5 if logarithmic else 1 / 11)
    ticks = scale.ticks(4)
    assert len(ticks) >= 2 and all(1 <= tick <= 100 for tick in ticks)


def test_every_metric_is_in_one_group():
    metrics = ["loss", "loss/contrast", "knn/top1", "weight/reconstruct", "something/new"]
    groups = grouped(metrics)
    assert sorted(name for names in groups.values() for name in names) == sorted(metrics)
    assert groups["Losses"] == ["loss", "loss/contrast"]
    assert groups["Others"] == ["something/new"], "what nobody has heard of is not hidden"


def test_titles_and_values_have_units():
    assert title("images_per_second") == ("Throughput", "images/s")
    assert title("loss/masked") == ("Loss: masked", "")
    assert shown("knn/top1", 0.4127) == "41.3 %"
    assert shown("images_per_second", 12345.6) == "12,346"
    assert shown("loss", 0.000123456) == "0.0001235"


def drawn(metric, *curves):
    lines = [Line(f"name {k}", f"run-{k}", c) for k, c in enumerate(curves)]
    figure, data = chart(metric, lines, 0, 100)
    texts = [x.text for x in figure.iter("span")]
    paths = {
        x.get("class"): x.get("d") for x in figure.iter("path") if "rule" not in x.get("class")
    }
    return figure, data, texts, paths


def test_a_chart_draws_its_curves_and_says_them_in_words():
    figure, data, _, paths = drawn("loss", curve([4.0, 2.0], [0, 100]), curve([3.0], [50]))
    assert figure.find(".//title").text == "Whole loss"
    assert figure.find(".//desc").text == (
        "name 0: 4 at step 0, 2 at step 100; name 1: 3 at step 50, 3 at step 50"
    )
    assert [line["css"] for line in data["lines"]] == ["run-0", "run-1"]
    assert data["lines"][0]["values"] == [4.0, 2.0]
    start, end = paths["line run-0"].removeprefix("M").split("L")
    assert (start.split()[0], end.split()[0]) == ("0", "1000")
    assert int(start.split()[1]) < int(end.split()[1]), "what is larger is higher up"
    assert paths["dots run-1"] == "M500 500h0", "a single value can be seen"


def test_a_chart_of_large_ratios_is_logarithmic_and_says_so():
    _, _, texts, _ = drawn("grad_norm", curve([4000.0, 4.0], [0, 100]))
    assert "whole loss, logarithmic" in texts
    _, _, texts, _ = drawn("grad_norm", curve([4.0, 2.0], [0, 100]))
    assert "whole loss" in texts


def test_a_share_of_the_time_is_shown_of_the_whole():
    _, _, texts, paths = drawn("input_bound", curve([0.5, 0.5], [0, 100]))
    assert {"0 %", "100 %"} <= set(texts)
    assert paths["line run-0"] == "M0 500L1000 500"


@pytest.mark.parametrize("values", [[0.0, 0.0], [5.0, 5.0], [-1.0, -1.0], [np.nan, np.nan]])
def test_constant_and_empty_curves_can_be_drawn(values):
    figure, _, _, paths = drawn("nonfinite_steps", curve(values, [0, 100]))
    assert ("line run-0" in paths) == np.isfinite(values[0])
    assert figure.find(".//desc").text
