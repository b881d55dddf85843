"""Finding an encoder in whatever it is wrapped in, and which one of two is meant."""

import numpy as np
import pytest
from foreign_weights import depths, random_params, swin, vit

from repre_jax.convert.names import to_theirs
from repre_jax.convert.search import choose, find_encoders, outside
from repre_jax.convert.tables import FORMATS, VIT
from repre_jax.errors import UserError


def official() -> dict:
    return to_theirs(VIT, random_params(vit()), (3,), heads=2)


def wrapped(prefix: str, state=None) -> dict:
    return {prefix + name: value for name, value in (state or official()).items()}


@pytest.mark.parametrize("names", FORMATS, ids=lambda names: names.title)
def test_every_format_is_known_by_its_names(names):
    encoder = vit() if names.kind == "vit" else swin()
    state = to_theirs(names, random_params(encoder), depths(encoder), heads=2)
    for prefix in ("", "params/" if names.flax else "model."):
        (found,) = find_encoders(wrapped(prefix, state))
        assert (found.names, found.prefix) == (names, prefix)
        assert found.tensors.keys() == state.keys()


@pytest.mark.parametrize(
    ("prefix", "weights"),
    [
        ("", None),
        ("module.", None),
        ("state_dict.module.base_encoder.", "online"),
        ("state_dict.module.momentum_encoder.", "target"),
        ("teacher.module.backbone.", "target"),
        ("student.module.backbone.", "online"),
        ("model.encoder.", None),
        ("model.encoder_k.", "target"),
        ("model_ema.", "target"),
    ],
)
def test_wrappings_in_the_wild(prefix, weights):
    beside = {"epoch": np.ones(1)} if prefix else {}
    (found,) = find_encoders(wrapped(prefix) | beside)
    assert (found.prefix, found.weights) == (prefix, weights)
    assert found.tensors.keys() == official().keys()


def test_what_torch_compile_adds_is_taken_away():
    state = {
        f"_orig_mod.{name.replace('blocks.1.', 'blocks.1._orig_mod.')}": value
        for name, value in official().items()
    }
    (found,) = find_encoders(state)
    assert found.tensors.keys() == official().keys()
    assert outside(state, found.prefix) == []


@pytest.mark.parametrize(
    ("prefixes", "weights", "evaluated", "chosen"),
    [
        (("student.backbone.", "teacher.backbone."), "auto", "target", 1),
        (("student.backbone.", "teacher.backbone."), "online", "target", 0),
        (("base_encoder.", "momentum_encoder."), "auto", "online", 0),
        (("base_encoder.", "momentum_encoder."), "target", "online", 1),
        (("model.encoder.", "model.encoder_k."), "auto", "online", 0),
        (("state_dict.", "state_dict_ema."), "target", "online", 1),
    ],
)
def test_of_two_the_one_that_is_asked_for(prefixes, weights, evaluated, chosen):
    tensors = {}
    for prefix in prefixes:
        tensors |= wrapped(prefix)
    found = choose(find_encoders(tensors), weights, evaluated)
    assert found.prefix == prefixes[chosen]
    assert found.weights == ("target" if chosen else "online")


def test_of_one_its_own_name_or_what_the_paper_evaluates():
    plain = find_encoders(official())
    assert choose(plain, "auto", "target").weights == "target"
    with pytest.raises(UserError, match="has target weights alone: set weights=target"):
        choose(plain, "online", "target")
    average = find_encoders(wrapped("momentum_encoder."))
    assert choose(average, "auto", "online").weights == "target"


def test_several_that_nothing_tells_apart():
    found = find_encoders(wrapped("left.") | wrapped("right."))
    with pytest.raises(UserError, match=r"several encoders \('left\.', 'right\.'\)"):
        choose(found, "auto", "online")


def test_what_is_beside_the_encoder_is_told():
    beside = {"optimizer.state.0.x": 1, "optimizer.state.1.x": 1, "queue": 1}
    assert outside(wrapped("model.") | beside, "model.") == ["optimizer.state.* (2)", "queue"]


def test_no_encoder_at_all():
    with pytest.raises(UserError, match=r"it holds conv1\.weight"):
        find_encoders({"conv1.weight": np.ones(1)})
