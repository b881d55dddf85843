"""RandAugment's operators against timm's, and what is drawn."""

import collections

import numpy as np
import pytest
from golden.compare import FOLDER
from golden.finetune_cases import LEVELS
from PIL import Image

from repre_jax.data.host import rand_augment as module
from repre_jax.data.host.rand_augment import OPERATORS, rand_augment
from repre_jax.data.recipes import RandAugment

GOLDEN = np.load(FOLDER / "finetune.npz")
IMAGE = GOLDEN["rand_augment/image"]
# In 8-bit levels. Both are Pillow's arithmetic; another version of it may round a warp or a blend
# differently.
TOLERANCE = 1


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", OPERATORS)
def test_operator_is_timms(name, level):
    ours = np.asarray(OPERATORS[name](Image.fromarray(IMAGE), level)).astype(int)
    theirs = GOLDEN[f"rand_augment/{name}/{level}"].astype(int)
    assert np.abs(ours - theirs).max() <= TOLERANCE


def test_every_operator_and_both_signs_are_drawn_equally_often(monkeypatch):
    calls = []

    def spy(name):
        return lambda image, level: calls.append((name, level)) or image

    monkeypatch.setattr(module, "OPERATORS", {name: spy(name) for name in OPERATORS})
    runs = 3000
    for number in range(runs):
        rand_augment(IMAGE, RandAugment(), np.random.default_rng(number))
    # Two draws an image, each left out half of the time.
    assert abs(len(calls) / runs - 1) < 0.06
    counts = collections.Counter(name for name, _ in calls)
    expected = len(calls) / len(OPERATORS)
    assert set(counts) == set(OPERATORS)
    assert max(abs(count - expected) for count in counts.values()) < 5 * expected**0.5
    levels = np.array([level for _, level in calls])
    assert abs((levels > 0).mean() - 0.5) < 0.05
    assert np.abs(levels).max() <= 1
    assert abs(np.abs(levels).mean() - 0.9) < 0.01


def test_result_is_a_function_of_the_generator():
    first, again, other = (
        rand_augment(IMAGE, RandAugment(), np.random.default_rng(s)) for s in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert first.shape == IMAGE.shape
    assert first.dtype == np.uint8


def test_no_operators_change_nothing():
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(rand_augment(IMAGE, RandAugment(operators=0), rng), IMAGE)
