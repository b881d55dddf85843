"""The table's text; whole tables are made in ``test_evaluate``."""

from repre_jax.table import markdown


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
