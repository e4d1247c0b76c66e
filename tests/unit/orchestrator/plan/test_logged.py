"""An objective, or a health rule, on what no run logs is a fault at submit."""

import pytest

from orchestrator.plan.expand import expand
from orchestrator.spec.reader import read_spec
from tests.spec_kit import BASE, faults, write

RATES = "[params]\nlearning_rate = [1e-5, 1e-4]\n"
OFF = "[set]\neval_steps = 0\n" + RATES


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with the base config."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "base.toml").write_text(BASE)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (OFF + '[stop]\nrule = "median"', "s.toml:7:1: stop.rule = 'median': em is not evaluated"),
        (OFF + '[stop]\nrule = "halving"', "stop.rule = 'halving': em is not evaluated with eval"),
        (OFF + '[search]\nmethod = "tpe"\nruns = 9', "search.method = 'tpe': em is not evaluated"),
        (OFF + '[objective]\nmetric = "em"', "objective.metric = 'em': em is not evaluated with"),
        (
            RATES + '[objective]\nmetric = "reward/corectness"',
            "no run has a reward 'corectness'; did you mean correctness?",
        ),
        (
            '[set]\nanswer_key = ""\nrewards = ["int"]\n' + RATES + '[objective]\nmetric = "em"',
            "em is not evaluated without reference answers",
        ),
        (
            '[set]\nanswer_key = ""\nrewards = ["int"]\neval_samples = 0\n'
            + RATES
            + '[stop]\nrule = "median"',
            "eval_reward is not evaluated with eval_samples = 0",
        ),
        (
            '[set]\neval_rewards = ["int"]\n' + RATES + "[objective]\n"
            'metric = "eval_reward/correctness"',
            "no run has a reward 'correctness'; there are int",
        ),
        (RATES + '[objective]\nmetric = "kl"', "kl is logged as 0 with kl_coeff = 0"),
        (RATES + '[stop]\nhealth = ["kl > 0.5"]', "stop.health[0] = 'kl > 0.5': kl is logged as 0"),
        (
            '[params]\neval_steps = [0, 50]\n[objective]\nmetric = "em"',
            "em is not evaluated with eval_steps = 0 (in 1 of 2 settings)",
        ),
    ],
)
def test_what_is_never_logged_can_be_no_objective_and_no_health_rule(text, fault):
    """With its place, the field that switches it off, and the nearest name."""
    (found,) = faults(text)
    assert fault in found


@pytest.mark.parametrize(
    "text",
    [
        OFF,  # A grid may train without any evaluation.
        OFF + '[stop]\nrule = "median"\n[objective]\nmetric = "reward_mean"',
        '[params]\nkl_coeff = [0.0, 0.1]\n[stop]\nhealth = ["kl > 0.5"]',
        '[set]\noverlong_buffer = 8\n[objective]\nmetric = "reward/overlong"',
        '[set]\neval_rewards = ["int"]\n' + RATES + '[objective]\nmetric = "eval_reward/int"',
        '[search]\nmethod = "random"\nruns = 3\n[stop]\nhealth = ["kl > 9"]\n[params]\n'
        'kl_coeff = { dist = "uniform", min = 0.0, max = 0.1 }',
    ],
)
def test_what_may_be_logged_is_no_fault(text):
    """One setting that logs it is enough for a health rule."""
    assert expand(read_spec(write(text))).settings
