"""Health rules: how they are written, and when one ends a run."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import SpecError
from orchestrator.stopping.curves import RunCurve
from orchestrator.stopping.health import NAN, HealthRule, parse_health, unhealthy
from tests.run_curves import METRICS, run


@pytest.mark.parametrize(
    ("text", "expected", "again"),
    [
        ("nan", NAN, "nan for 3"),
        ("nan for 1", HealthRule("nan", "", 0.0, 1), "nan for 1"),
        ("kl > 0.5", HealthRule("kl", ">", 0.5, 1), "kl > 0.5"),
        ("kl > 0.123456789", HealthRule("kl", ">", 0.123456789, 1), None),
        (
            " frac_reward_zero_std==1 for 20 ",
            HealthRule("frac_reward_zero_std", "==", 1.0, 20),
            "frac_reward_zero_std == 1 for 20",
        ),
        ("reward/int <= -1e-3 for 5", HealthRule("reward/int", "<=", -1e-3, 5), None),
        ("entropy < .1", HealthRule("entropy", "<", 0.1, 1), None),
    ],
)
def test_a_health_rule_is_read_and_written_back(text, expected, again):
    """What is shown reads back as the same rule."""
    rule = parse_health(text, METRICS)
    assert rule == expected
    assert parse_health(str(rule), METRICS) == rule
    assert again in (None, str(rule))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot be read; write nan, or METRIC"),
        ("kl", "cannot be read"),
        ("kl = 0.5", "cannot be read"),
        ("kl > 0.5 for", "cannot be read"),
        ("kl > 0.5 for -3", "cannot be read"),
        ("kl > 0.5 for 0", "must hold for at least 1 update"),
        ("kl > much", "much is no number"),
        ("kl > nan", "nan is no number"),
        ("kl > 1e999", "1e999 is no number"),
        ("kll > 0.5", "kll is no key of the training log; did you mean kl?"),
        ("nan > 3", "nan is no key"),
        ("kl > 0.5 and loss > 3", "cannot be read"),
    ],
)
def test_a_health_rule_that_cannot_be_read_says_why(text, words):
    """With the grammar, or the nearest metric."""
    with pytest.raises(SpecError) as caught:
        parse_health(text, METRICS)
    assert words in str(caught.value)
    assert str(caught.value).startswith(repr(text))


@given(st.text(max_size=30))
def test_any_text_is_a_rule_or_our_error(text):
    """Whatever stands in a spec."""
    try:
        rule = parse_health(text, METRICS)
    except SpecError:
        return
    assert parse_health(str(rule), METRICS) == rule


def test_a_metric_past_its_bound_for_long_enough_stops_the_run():
    """The first moment at which it had held, with the values as evidence."""
    curve = run(7, [0.1, 0.6, 0.4, 0.7, 0.8, 0.9, 0.95], metric="kl")
    decision = unhealthy(curve, [parse_health("kl > 0.5 for 3", METRICS)])
    assert (decision.run, decision.update) == (7, 6)
    assert decision.reason == "health: kl > 0.5 for 3 (held for 3 updates, up to 6)"
    assert decision.evidence == "update 4: kl = 0.7; update 5: kl = 0.8; update 6: kl = 0.9"
    assert unhealthy(curve, [parse_health("kl > 0.5 for 5", METRICS)]) is None


def test_a_line_stands_for_the_updates_since_the_line_before():
    """With logging_steps = 10 two lines are twenty updates."""
    curve = run(1, [0.5, 1.0, 1.0, 1.0], metric="frac_reward_zero_std", every=10)
    rule = parse_health("frac_reward_zero_std == 1 for 20", METRICS)
    assert unhealthy(curve, [rule]).update == 30


def test_the_earliest_of_several_rules_decides():
    """Whatever their order."""
    lines = [{"update": u, "kl": u / 10, "entropy": 1 - u / 10} for u in range(1, 11)]
    curve = RunCurve(1, "s", lines, 10)
    rules = [parse_health(text, METRICS) for text in ("kl > 0.75", "entropy < 0.65")]
    for order in (rules, rules[::-1]):
        assert unhealthy(curve, order).reason.startswith("health: entropy < 0.65")


@pytest.mark.parametrize("bad", [None, math.nan, math.inf])
def test_nan_is_three_updates_in_a_row_without_a_finite_loss_or_gradient(bad):
    """The trainer skips such updates and logs null; one that passes does no harm."""
    ok = {"loss": 0.1, "grad_norm": 1.0}
    steps = [ok, {**ok, "loss": bad}, ok, {**ok, "grad_norm": bad}, {**ok, "loss": bad}]
    steps.append({"loss": bad, "grad_norm": bad})
    lines = [{"update": u, **step} for u, step in enumerate(steps, start=1)]
    # An evaluation says nothing about the loss, and does not break the row.
    lines.insert(4, {"update": 4, "em": 0.5, "split": "test"})
    decision = unhealthy(RunCurve(1, "s", lines, 10), [NAN])
    assert decision.update == 6
    assert decision.evidence.endswith("update 6: loss = nan, grad_norm = nan")
    assert unhealthy(RunCurve(1, "s", lines[:-1], 10), [NAN]) is None


def test_a_missing_value_is_no_evidence():
    """null where nothing was measured breaks a row instead of counting."""
    curve = run(1, [0.9, None, 0.9, 0.9], metric="kl")
    assert unhealthy(curve, [parse_health("kl > 0.5 for 3", METRICS)]) is None


def test_only_held_out_evaluations_count():
    """Exact match on training rows is another thing under the same name."""
    lines = [{"update": u, "em": 0.0, "split": "train"} for u in (1, 2, 3)]
    assert unhealthy(RunCurve(1, "s", lines, 9), [parse_health("em < 0.1", METRICS)]) is None


@given(
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from([0.2, 0.7, None])), max_size=12),
    st.integers(1, 6),
)
def test_a_row_of_updates_is_found_where_brute_force_finds_it(steps, wanted):
    """Against all pairs of a first and a last line."""
    updates = np.cumsum([gap for gap, _ in steps]).tolist()
    values = [value for _, value in steps]
    lines = [{"update": u, "kl": v} for u, v in zip(updates, values, strict=True)]
    found = unhealthy(RunCurve(1, "s", lines, 99), [HealthRule("kl", ">", 0.5, wanted)])
    ends = [
        updates[j]
        for i in range(len(steps))
        for j in range(i, len(steps))
        if all(v == 0.7 for v in values[i : j + 1])
        and updates[j] - (updates[i - 1] if i else 0) >= wanted
    ]
    assert (found.update if found else None) == min(ends, default=None)
