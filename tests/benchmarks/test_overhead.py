import pytest

from benchmarks import overhead
from repre_jax.config_files import read_config


@pytest.mark.slow
def test_a_decoder_of_width_128_adds_little_and_the_literal_one_more():
    row = overhead.operations(read_config("moco_v3_vits"), ["literal", "128"])
    # ViT-S forward 4.6 GMAC: twice online and back, twice as target; heads on top.
    assert row["baseline_gflop"] == pytest.approx(2 * 4.6 * (2 * 3 + 2), rel=0.05)
    literal, narrow = row["repre_literal"], row["repre_128"]
    # The borders that a 3x3 convolution does not multiply are left out.
    assert literal["flops_over_baseline"] == pytest.approx(1.178, abs=0.002)
    assert 1.02 < narrow["flops_over_baseline"] < 1.04
    total = row["baseline_gflop"] + literal["decoder_gflop"]
    assert total / row["baseline_gflop"] == pytest.approx(literal["flops_over_baseline"], abs=1e-3)


@pytest.mark.slow
def test_one_view_each_costs_half():
    both = overhead.operations(read_config("moco_v3_vits"), [])["baseline_gflop"]
    one = overhead.operations(read_config("moco_v2_vits"), [])["baseline_gflop"]
    assert one == pytest.approx(both / 2, rel=0.05)


def test_table_has_a_cell_for_each_width():
    cell = {"decoder_gflop": 1.0, "flops_over_baseline": 1.25}
    row = {"baseline_gflop": 4.0, "repre_literal": cell, "repre_128": cell}
    shown = overhead.table({"moby_swint": row}, ["literal", "128"])
    assert shown.count("FLOPs x 1.250") == 2
    assert "moby_swint" in shown
