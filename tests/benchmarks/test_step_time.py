import json
from types import SimpleNamespace

import jax
import pytest

from benchmarks import provenance, step_time
from repre_jax.config_files import read_config
from repre_jax.errors import UserError
from repre_jax.sharding import make_mesh
from repre_jax.training.accelerators import peak_flops_per_second


@pytest.fixture(scope="module")
def result():
    """Two simulated devices, and next to no augmentation, which takes longest to compile."""
    config = read_config("moco_v3_vits:smoke")
    config.train.update({"batch_size": 8, "devices": 2})
    config.views.update({"jitter_probability": 0.0, "grey_probability": 0.0})
    config.views.update({"blur_probability": (0.0, 0.0), "solarise_probability": (0.0, 0.0)})
    return step_time.benchmark(config, make_mesh(2), widths=["16"], steps=1, rounds=2)


@pytest.mark.slow
def test_measures_baseline_and_repre_side_by_side(result):
    baseline, repre = result["variants"]
    assert [baseline["name"], repre["name"]] == ["baseline", "repre_16"]
    assert "over_baseline" not in baseline
    low, high = repre["over_baseline"]["time_lowest_and_highest"]
    assert 0 < low <= repre["over_baseline"]["time"] <= high
    for row in result["variants"]:
        assert len(row["ms_per_step_all"]) == 2
        assert row["ms_per_step_min"] == min(row["ms_per_step_all"])
        assert row["images_per_second"] == pytest.approx(8e3 / row["ms_per_step"], rel=0.01)
        assert row["memory_bytes_per_device"]["peak"] > 4 * row["parameters"]
    assert result["augmentation"]["ms"] > 0
    assert json.loads(json.dumps(result)) == result  # as a result file is written


@pytest.mark.slow
def test_one_program_each(result):
    assert [row["compilations"] for row in result["variants"]] == [1, 1]


@pytest.mark.slow
def test_operations_are_those_of_all_devices(result):
    for row in result["variants"]:
        ratio = row["flops_per_step_xla"] / row["flops_per_step"]
        assert 1.0 <= ratio <= 1.25  # half, were it one device's
    over = result["variants"][1]["over_baseline"]
    assert over["flops_xla"] == pytest.approx(over["flops"], rel=0.02)
    assert over["flops"] > 1


@pytest.mark.slow
def test_no_peak_is_invented(result):
    assert result["device"]["peak_flops_per_second"] is None
    assert [row["share_of_peak"] for row in result["variants"]] == [None, None]
    assert peak_flops_per_second("NVIDIA H200", "bfloat16") == 989.4e12
    assert peak_flops_per_second("NVIDIA H200", "float32") is None


@pytest.mark.slow
def test_result_can_be_shown_and_saved(result, tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "RESULTS", tmp_path)
    shown = step_time.table(result)
    assert "2 x cpu (simulated), batch 8" in shown
    assert "repre_16 over baseline: time x" in shown
    name = step_time.result_name("configs/moco_v3_vits.py:smoke", result)
    assert name == "step_time_moco_v3_vits_smoke_cpu_x2"
    assert provenance.save_result(name, result) == tmp_path / f"{name}.json"


def test_variants_leave_the_config_alone():
    config = read_config("moco_v3_vits:smoke")
    made = step_time.variants(config, ["literal", "128"])
    assert list(made) == ["baseline", "repre_literal", "repre_128"]
    assert [v.repre.enabled for v in made.values()] == [False, True, True]
    assert made["repre_literal"].repre.decoder.width is None
    assert made["repre_128"].repre.decoder.width == 128
    assert config.repre.enabled and config.repre.decoder.width is None
    with pytest.raises(UserError, match="wide"):
        step_time.variants(config, ["wide"])


def test_everyone_starts_a_round():
    order = []
    measure = {name: lambda name=name: order.append(name) or len(order) for name in "abc"}
    seconds = step_time.take_turns(measure, 3)
    assert order == list("abcbcacab")
    assert seconds == {"a": [1, 6, 8], "b": [2, 4, 9], "c": [3, 5, 7]}


def test_batch_has_the_form_of_the_pipeline():
    recipe = SimpleNamespace(global_crops=2, local_crops=3, local_size=8)
    encoder = SimpleNamespace(image_size=16, channels=3)
    learner = SimpleNamespace(encoder=encoder, method=SimpleNamespace(views=recipe))
    batch = step_time.synthetic_batch(learner, 4, make_mesh(2))
    shapes = {name: (array.shape, array.dtype.name) for name, array in batch.items()}
    assert shapes == {
        "global": ((4, 2, 16, 16, 3), "uint8"),
        "local": ((4, 3, 8, 8, 3), "uint8"),
        "index": ((4,), "int32"),
        "epoch": ((4,), "int32"),
        "label": ((4,), "int32"),
    }
    assert len(batch["global"].sharding.device_set) == 2
    assert isinstance(batch["index"], jax.Array)
