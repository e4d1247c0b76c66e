"""Importance of parameters: what mattered is found, and too little is said to be too little."""

import math

import pytest

from orchestrator.run import RunState
from orchestrator.search.importance import MIN_SETTINGS, importance
from orchestrator.search.suggest import suggest
from orchestrator.search.trials import Trial
from tests.search_spaces import MIXED, rules, space

DONE = RunState.COMPLETED


def tried(count, objective, made=None):
    settings = suggest(made or space(**MIXED), rules(), [], count, seed=0, method="sobol").settings
    return [Trial(setting, DONE, objective(setting)) for setting in settings]


def rate_decides(setting):
    return -((math.log10(setting["learning_rate"]) + 4.5) ** 2) + 0.01 * setting["batch_size"]


@pytest.mark.parametrize(("goal", "sign"), [("max", 1), ("min", -1)])
def test_the_parameter_that_decides_comes_first(goal, sign):
    """Sixty settings of nine parameters, one of which makes the score."""
    trials = tried(60, lambda setting: sign * rate_decides(setting))
    found = importance(space(**MIXED), rules(), trials, goal)
    assert found.settings == 60
    assert next(iter(found.shares)) == "learning_rate"
    assert found.shares["learning_rate"] > 0.4
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.reason == ""


def test_a_choice_can_be_what_decides():
    """Unordered values count like numbers."""
    trials = tried(60, lambda s: float(s["loss_type"] == "dr_grpo"))
    shares = importance(space(**MIXED), rules(), trials, "max").shares
    assert next(iter(shares)) == "loss_type"


def test_too_few_settings_are_said_to_be_too_few():
    """Seeds of one setting and failed runs make no setting more."""
    trials = tried(MIN_SETTINGS - 1, rate_decides)
    rows = [*trials, *trials, Trial({"kl_coeff": 0.01}, RunState.FAILED)]
    found = importance(space(**MIXED), rules(), rows, "max")
    assert (dict(found.shares), found.settings) == ({}, 19)
    assert found.reason == "needs 20 finished settings, there are 19"


def test_settings_that_all_score_the_same_say_nothing():
    """Exact match of 0 everywhere is a common first sweep."""
    found = importance(space(**MIXED), rules(), tried(30, lambda s: 0.0), "max")
    assert found.reason == "every setting scored the same"


def test_a_parameter_with_one_value_has_no_share():
    """And one that alone varies has all."""
    made = space(learning_rate=MIXED["learning_rate"], batch_size={"axis": [2]})
    shares = importance(made, rules(), tried(30, rate_decides, made), "max").shares
    assert shares.get("batch_size", 0.0) == 0.0
    assert shares["learning_rate"] == pytest.approx(1)
