"""Rows of metrics, read again."""

import json

from repre_jax.runs.destinations import best_row


def test_the_best_row_is_the_earliest_best_and_may_be_the_last(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": 1, "a": 0.2}, {"step": 2, "a": 0.5}, {"step": 3}, {"step": 4, "a": 0.5}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    last = {"step": 5, "a": 0.4}
    assert best_row(path, "a", last)["step"] == 2
    assert best_row(path, "a", last | {"a": 0.6})["step"] == 5, "which the file may lack"
    assert best_row(tmp_path / "none.jsonl", "a", last) == last
    assert best_row(path, "b", last) is None
