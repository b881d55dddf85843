import json
import sys

import pytest

from benchmarks import masked_step, official, official_masked, provenance
from benchmarks.masked_step import Counts
from repre_jax.config_files import read_config
from repre_jax.errors import UserError

COUNTS = {"mae": Counts(step=8_000_000_000, products=1_000_000_000), "lomar": Counts(4 * 10**9, 1)}
# Ours is twice as fast as the official MAE and half as fast as the official LoMaR.
SECONDS = {
    "mae/ours/step": [2.0, 1.0, 4.0],
    "mae/ours/products": [0.125, 0.125, 0.25],
    "mae/official/step": [4.0, 2.5, 4.0],
    "mae/official/products": [0.25, 0.25, 0.25],
    "lomar/ours/step": [1.0, 1.0, 1.0],
    "lomar/ours/products": [0.1, 0.1, 0.1],
    "lomar/official/step": [0.5, 0.5, 0.5],
    "lomar/official/products": [0.1, 0.1, 0.1],
}


def report(seconds=SECONDS, counts=COUNTS, image_size=448):
    return masked_step.report(seconds, counts, images=4, image_size=image_size)


def test_ratios_are_those_of_the_same_round():
    row = report()["methods"]["mae"]
    assert row["times_official"] == {"median": 2.0, "lowest": 1.0, "highest": 2.5, "goal": 1.2}
    assert report()["methods"]["lomar"]["times_official"]["median"] == 0.5


def test_speeds_follow_from_images_and_arithmetic():
    row = report()["methods"]["mae"]
    assert row["multiply_adds_per_image"] == 2_000_000_000
    ours = row["ours"]
    assert ours["images_per_second"] == {"median": 2.0, "lowest": 1.0, "highest": 4.0}
    assert ours["gflop_per_second"] == 8.0  # two operations a multiply-add
    assert ours["products_gflop_per_second"] == 16.0
    assert ours["products_share_of_step"] == 0.5


def test_lomar_is_set_against_mae_beside_its_arithmetic():
    over = report()["lomar_over_mae"]
    assert over["ours"]["median"] == 2.0
    assert over["official"]["median"] == 8.0
    assert (over["arithmetic"], over["goal"]) == (2.0, 3.1)
    assert report(image_size=224)["lomar_over_mae"]["goal"] is None


def test_table_names_what_was_reached_and_what_was_wanted():
    shown = masked_step.table("448", report())
    assert "2.00 (1.00 to 2.50) times the official code; goal 1.2" in shown
    assert "arithmetic 2.00; goal 3.1" in shown


def test_ours_alone_is_compared_with_nothing():
    ours = {name: seconds for name, seconds in SECONDS.items() if name.startswith("mae/ours")}
    row = report(ours, {"mae": COUNTS["mae"]})
    assert set(row["methods"]["mae"]) == {"multiply_adds_per_image", "ours"}
    assert "lomar_over_mae" not in row
    assert "official" not in masked_step.table("448", row)


def test_encoders_see_what_the_methods_leave_them():
    mae, lomar = (read_config(f"{method}_vitb") for method in masked_step.METHODS)
    for config, at_224, at_448 in ((mae, 1 + 49, 1 + 196), (lomar, 4 * 50, 4 * 50)):
        config.train.batch_size = 2
        assert masked_step.mlp_layer(config) == (2 * at_224, 768, 3072)
        config.model.image_size = 448
        assert masked_step.mlp_layer(config) == (2 * at_448, 768, 3072)


@pytest.mark.slow
def test_our_step_is_measured_without_pytorch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    config = read_config("lomar_vitb:smoke")
    config.model.update({"depth": 1, "image_size": 40})
    config.train.batch_size = 2
    row = masked_step.benchmark({"lomar": config}, {}, steps=1, rounds=2)
    measured = row["methods"]["lomar"]
    assert len(measured["ours"]["seconds_per_step"]) == 2
    assert measured["multiply_adds_per_image"] > 1e5
    assert json.loads(json.dumps(row)) == row


def test_missing_checkouts_and_packages_are_said_beforehand(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="--lomar= must be a checkout of github"):
        official_masked.check({"lomar": None})
    (tmp_path / "models_mae.py").touch()
    monkeypatch.setattr(official_masked, "PACKAGES", ("numpy", "no_such_package"))
    with pytest.raises(UserError, match="pip install no_such_package, or"):
        official_masked.check({"mae": str(tmp_path)})
    assert official.provenance({}, official_masked.PACKAGES) is None


def test_a_finished_size_is_not_measured_again(tmp_path, monkeypatch, capsys):
    for module in (provenance, masked_step):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(masked_step, "provenance", lambda: {"command": "c", "commit": "c0ffee"})
    measured = []
    monkeypatch.setattr(
        masked_step,
        "benchmark",
        lambda configs, *_, **__: (
            measured.append(configs["mae"].model.image_size)
            or report({n: s for n, s in SECONDS.items() if "official" not in n})
        ),
    )
    for sizes in ("448", "448,224"):
        masked_step.main(masked_step.OPTIONS(["masked_step", "--ours_only", f"--sizes={sizes}"]))
    assert measured == [448, 224]
    assert "448 px lomar ours" in capsys.readouterr().out
    (path,) = tmp_path.glob("masked_step_*.json")
    assert list(json.loads(path.read_text())["rows"]) == ["448", "224"]
