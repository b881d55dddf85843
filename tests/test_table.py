"""The table's text; whole tables are made in ``test_evaluate``."""

from pathlib import Path

import pytest

from repre_jax.config_files import read_config
from repre_jax.errors import UserError
from repre_jax.table import _cell, find_rows, markdown


def row(run, formula):
    cell = {"metric": "top1", "value": 0.5, "protocol": "linear_dino", "formula": formula}
    return {"run": run, "method": "dino", "weights": "target", "step": 3, "linear": cell}


def test_one_formula_for_all_stands_alone():
    lines = markdown([row("a", "last four blocks"), row("b", "last four blocks")], ["linear"])
    assert lines.endswith("\n\nlinear, linear_dino: last four blocks.\n")


def test_formulas_that_differ_say_whose_they_are():
    """A ViT-S beside a ViT-B: the same protocol takes other features."""
    rows = [row("a", "last four blocks"), row("b", "class and mean"), row("c", "last four blocks")]
    lines = markdown(rows, ["linear"]).splitlines()
    assert "linear, linear_dino of a, c: last four blocks." in lines
    assert "linear, linear_dino of b: class and mean." in lines


def test_rows_are_runs_and_weights_of_other_libraries(tmp_path):
    for name in ("a/checkpoints", "b/eval", "timm"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("timm/model.safetensors", "dino.pth", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    found = find_rows(f"{tmp_path}/*,{tmp_path}/a")
    assert [path.name for path in found] == ["a", "dino.pth", "timm"]
    with pytest.raises(UserError, match="nor weights of another library"):
        find_rows(f"{tmp_path}/b,{tmp_path}/*.txt")


def test_images_of_the_table_are_not_those_of_dense_cells():
    config = read_config("eval/table")
    config.data.path, config.dense_knn.data.path = "/images", "/camvid"
    paths = [_cell(config, cell, Path("a"), "auto").data.path for cell in ("knn", "dense_knn")]
    assert paths == ["/images", "/camvid"]


def test_shares_are_told_in_percent():
    lines = [
        markdown([row("a", "f") | {"linear": {**row("a", "f")["linear"], "metric": metric}}], cells)
        for metric, cells in (("mean_iou", ["linear"]), ("effective_rank", ["linear"]))
    ]
    assert "| 50.00 |" in lines[0] and "| 0.5 |" in lines[1]
