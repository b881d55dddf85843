"""Numbers outside their range, and that every number of a config has one."""

import math

import pytest
from evaluation_configs import config_name

from repre_jax.config_files import read_config
from repre_jax.errors import UserError
from repre_jax.evaluation import TASKS
from repre_jax.methods import METHODS
from repre_jax.ranges import AT_LEAST_ONE, POSITIVE, SHARE_BELOW_ONE, Range, check_ranges
from repre_jax.training import defaults
from repre_jax.training.explain import flat_keys
from repre_jax.training.resolution import ranges_of


@pytest.mark.parametrize(
    ("allowed", "inside", "outside", "words"),
    [
        (Range(2), (2, 3.5), (1, -math.inf, math.inf, math.nan), "at least 2"),
        (POSITIVE, (1e-9, 7), (0, -1), "above 0"),
        (SHARE_BELOW_ONE, (0, 0.99), (1, -0.1), "at least 0 and below 1"),
        (Range(0, 1), (0, 1), (1.1,), "at least 0 and at most 1"),
    ],
)
def test_ends(allowed, inside, outside, words):
    assert all(map(allowed.holds, inside))
    assert not any(map(allowed.holds, outside))
    assert str(allowed) == words


def test_numbers_are_found_in_sections_and_lists():
    ranges = {"a.b": POSITIVE, "c": POSITIVE, "d.e.f": POSITIVE}
    check_ranges({"a": {"b": 1}, "c": (1, 2)}, ranges)
    check_ranges({"a": {"b": None}, "d": None}, ranges)
    with pytest.raises(UserError, match=r"^a\.b=0 must be above 0\.$"):
        check_ranges({"a": {"b": 0}}, ranges)
    with pytest.raises(UserError, match=r"^c=\[1, 0\] must each be above 0\.$"):
        check_ranges({"c": [1, 0]}, ranges)


@pytest.mark.parametrize(
    ("value", "allowed", "words"),
    [
        (("1", 2), POSITIVE, r"x=\('1', 2\) must each be a number\."),
        ((None,), POSITIVE, r"x=\(None,\) must each be a number\."),
        (True, POSITIVE, r"x=True must be a number\."),
        ((1.5, 2), AT_LEAST_ONE, r"x=\(1\.5, 2\) must each be a whole number\."),
        (1e39, POSITIVE, r"x=1e\+39 must be above 0, and not so large"),
    ],
)
def test_what_is_no_number(value, allowed, words):
    with pytest.raises(UserError, match=f"^{words}"):
        check_ranges({"x": value}, {"x": allowed})


@pytest.mark.parametrize("method", METHODS)
def test_every_number_of_a_config_has_a_range_and_is_inside(method):
    config = defaults.get_config(method)
    check_ranges(config, ranges_of(method))
    assert numbers_of(config) <= set(ranges_of(method))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("variant", ["", ":smoke"])
def test_every_number_of_an_evaluation_has_a_range_and_is_inside(task, variant):
    config = read_config(config_name(task) + variant)
    check_ranges(config, TASKS[task].ranges)
    assert numbers_of(config) <= set(TASKS[task].ranges) <= set(flat_keys(config))


def numbers_of(config):
    """Keys whose values are numbers."""
    return {
        key
        for key, value in flat_keys(config).items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
