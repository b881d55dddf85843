import pytest

from benchmarks import official_contrastive, peers
from repre_jax.errors import UserError

# Ours takes half the time of the official step, whose compiled form lies between.
SECONDS = {
    "baseline": [1.0, 2.0, 1.0],
    "repre": [2.0, 2.0, 2.0],
    "official": [2.0, 4.0, 2.0],
    "official_compiled": [1.5, 3.0, 1.5],
}
RATES = {"ours": [400.0, 400.0, 400.0], "official": [2.0, 2.0, 2.0]}


def test_steps_are_set_against_the_faster_official_one_of_the_same_round():
    times = peers.report(SECONDS, RATES, batch_size=4, cores_are_shared=True)["steps"]["baseline"]
    assert times["step"] == {"median": 4.0, "lowest": 2.0, "highest": 4.0}
    assert times["times_official"]["official"] == "official_compiled"
    assert times["times_official"]["step"] == {"median": 1.5, "lowest": 1.5, "highest": 1.5}


def test_input_adds_up_on_shared_cores_and_hides_beside_an_accelerator():
    shared, beside = (
        peers.report(SECONDS, RATES, batch_size=4, cores_are_shared=shared)["steps"]
        for shared in (True, False)
    )
    assert shared["baseline"]["iteration"]["median"] == round(4 / 1.01, 4)
    assert shared["official"]["iteration"]["median"] == 4 / (2 + 2)
    assert beside["baseline"]["iteration"]["median"] == 4 / 1
    assert beside["official_compiled"]["iteration"]["median"] == 4 / 2  # waits for its input
    assert "input 400 images/s, official 2" in peers.table(
        "dino", peers.report(SECONDS, RATES, batch_size=4, cores_are_shared=True)
    )


def test_a_checkout_that_is_none_is_named(tmp_path):
    with pytest.raises(UserError, match="--dino= must be a checkout of"):
        official_contrastive.check({"dino": None}, "leave it out")
    with pytest.raises(UserError, match="facebookresearch/moco-v3; or leave it out"):
        official_contrastive.check({"moco_v3": str(tmp_path)}, "leave it out")
