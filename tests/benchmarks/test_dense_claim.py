import pytest

from benchmarks import dense_claim
from repre_jax.evaluation.linear.protocols import LINEAR_PROTOCOLS


def test_arms_of_a_seed_come_before_the_next_and_what_they_need_before_them():
    names = dense_claim.names()
    assert len(names) == len(set(names)) == 2 * 4 * 3 + 2 + 4
    assert names.index("dino-learned-1") < names.index("dino-converged-1")
    assert names.index("dino-baseline-0") < names.index("dino-untrained-0")
    assert {name[-1] for name in names[:12]} == {"0"}


def test_arms_differ_in_what_is_stated_alone(tmp_path):
    of = {
        variant: dense_claim.training_arguments(f"dino-{variant}-2", "images", tmp_path)
        for variant in ("baseline", "learned", "windows")
    }
    assert of["baseline"][0] == "--config=configs/imagenette_dino.py:baseline"
    assert of["learned"][0] == of["windows"][0] == "--config=configs/imagenette_dino.py"
    assert [*of["baseline"][1:], "--config.repre.weighting=learned"] == of["learned"][1:]
    assert set(of["windows"]) - set(of["learned"]) == set(dense_claim.WINDOWS[1:])


@pytest.mark.parametrize(("arm", "protocol"), [("dino-learned", "dino"), ("mae-untrained", "mae")])
def test_every_linear_probe_can_start_on_the_images_there_are(arm, protocol):
    own = LINEAR_PROTOCOLS[protocol]
    given = dict(flag.split("=") for flag in dense_claim.instruments(f"{arm}-0", "")["linear"])
    assert int(given["--config.epochs"]) > own.warmup_epochs
    assert int(given.get("--config.train_batch_size", own.batch_size)) <= 9469


def test_differences_are_within_method_and_seed():
    values = {"dino-baseline-0": 10.0, "dino-learned-0": 12.0, "dino-learned-1": 99.0}
    values |= {"moco_v3-baseline-0": 20.0, "moco_v3-learned-0": 19.0}
    found = dense_claim.differences(values, "learned")
    assert found == [-1.0, 2.0]
    assert dense_claim.differences(values, "learned", ("dino",)) == [2.0]
    # t of one degree of freedom, 12.706, times 3 / sqrt(2) / sqrt(2).
    assert dense_claim.described(found).startswith(
        "+0.50 points, 95 % interval -18.56 to +19.56, effect +0.24, 2 pairs"
    )
    assert dense_claim.described([1.0]) == "1 pair(s): +1.00"


def test_the_rule_of_the_page():
    assert dense_claim.verdict([1.0] * 5) == "5 of 6 pairs are there"
    assert dense_claim.verdict([1.0, 1.1, 0.9, 1.0, 1.2, 0.8]) == "a gain"
    assert dense_claim.verdict([-1.0, -1.1, -0.9, -1.0, -1.2, -0.8]) == "a loss"
    assert dense_claim.verdict([1.0, -1.1, 0.9, -1.0, 1.2, 0.8]) == "not seen at this budget"


def test_runs_that_collapsed_are_named():
    def run(deviation, loss=1.0):
        return {"health": {"val/feature_std": deviation}, "curves": {"loss": [2.0, loss]}}

    before = {"measured": {"health": {"metrics": {"feature_std": 0.08}}}}
    results = {"dino-baseline-0": run(0.05), "dino-learned-0": run(0.007)}
    results |= {"dino-windows-0": run(None), "dino-windows-1": run(0.05, loss=None)}
    results |= {"dino-untrained-0": before, "mae-0": run(0.05)}
    assert dense_claim.troubles(results) == [
        "dino-learned-0: collapsed, 0.007",
        "dino-windows-0: not finite",
        "dino-windows-1: not finite",
        "mae-0: its encoder before training is not measured",
    ]


@pytest.mark.parametrize("name", ["dino-learned-1", "mae-0"])
def test_every_run_is_measured_by_every_instrument(name):
    flags = dense_claim.instruments(name, "camvid")
    assert list(flags) == ["dense_knn", "propagation", "setr", "knn", "linear"]
    assert f"--config.seed={name[-1]}" in flags["setr"]
    assert all(
        "--config.data.path=camvid" in flags[x] for x in ("dense_knn", "propagation", "setr")
    )
