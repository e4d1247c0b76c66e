"""Numbers, durations and curves as short texts."""

from datetime import datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.run import (
    RunState,
)
from orchestrator.text import (
    bar,
    between,
    counts,
    duration,
    metric,
    number,
    percent,
    run_ids,
    settings,
    short_number,
    size,
    span,
    sparkline,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (0.4, "0s"), (59.4, "59s"), (59.6, "1m 00s"), (185, "3m 05s"),
     (7800, "2h 10m"), (3 * 86400 + 4 * 3600, "3d 04h"), (float("inf"), "–"), (-3, "0s")],
)  # fmt: skip
def test_a_duration_has_two_units_at_most(seconds, text):
    """By hand."""
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.51234, "0.5123"), (12.3456, "12.35"), (123456.0, "123456"), (3, "3"),
     (1.5e-7, "1.50e-07"), (0.0, "0.0"), (-0.5, "-0.5000"), ("x", "x"), (2e9, "2.00e+09")],
)  # fmt: skip
def test_a_number_has_four_digits(value, text):
    """By hand."""
    assert number(value) == text


def test_the_small_words():
    """Percent, counts, settings and bars by hand."""
    assert (percent(0.455), percent(None)) == ("45.5%", "–")
    assert (size(3_634_445), size(12_400_000_000), size(None)) == ("3.6 MB", "12.4 GB", "–")
    assert (metric("em", 0.5), metric("peak_bytes", 10**9)) == ("50.0%", "1.0 GB")
    found = {RunState.QUEUED: 3, RunState.COMPLETED: 2, RunState.FAILED: 0}
    assert counts(found) == "2 completed, 3 queued"
    assert settings({"learning_rate": 1e-5, "shuffle": True, "rewards": ["int"]}) == (
        'learning_rate=1e-5 shuffle=true rewards=["int"]'
    )
    assert bar(0.5, 10) == "━━━━━─────"
    assert (bar(-1, 4), bar(7, 4)) == ("────", "━━━━")


def test_ids_are_written_as_commands_take_them():
    """One, a span, and what stands alone."""
    assert run_ids([7]) == "run 7"
    assert run_ids([1, 2, 3, 7, 9, 10]) == "runs 1-3, 7, 9-10"


def test_a_sparkline_is_scaled_and_cut():
    """The lowest block for the lowest value, the highest for the highest, by hand between."""
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8, 0, 7) == "▁▂▃▄▅▆▇█"
    assert sparkline([0, 0, 7, 7], 2, 0, 7) == "▁█"
    assert sparkline([1, float("nan")], 8, 0, 2) == "▅"
    assert sparkline([], 8, 0, 1) == ""


@example([8.9e307, 8.99e307], 1, 0.0, 0.0)
@example([1.7976931348623157e308] * 3, 1, 0.0, 1.0)
@given(st.lists(st.floats(), max_size=50), st.integers(0, 20), st.floats(-9, 9), st.floats(-9, 9))
def test_a_sparkline_never_fails_and_never_overflows(values, width, low, high):
    """Whatever a log holds."""
    assert len(sparkline(values, width, low, high)) <= width


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(50, 58, "50s – 58s"), (100, 131, "1m 40s – 2m 10s"), (612, 1490, "10m 00s – 25m 00s"),
     (7000, 7100, "about 2h 00m"), (5000, 9100, "1h 20m – 2h 30m"),
     (60, 61, "about 1m 00s"), (0, 0, "about 0s")],
)  # fmt: skip
def test_a_span_pretends_to_know_no_more_than_it_does(low, high, text):
    """Seconds, then tens of them, then minutes; one figure where both are the same."""
    assert span(low, high) == text


def test_a_time_of_day_says_the_day_where_it_is_another(monkeypatch):
    """Noon, and then the next day."""
    noon = datetime(2026, 1, 1, 12, 0).astimezone()
    assert between(600, 3600, noon) == "between 12:10 and 13:00"
    assert between(600, 601, noon) == "at 12:10"
    assert between(3600, 86400, noon) == "between 13:00 and Fri 12:00"
    assert between(3600, 864000, noon) == "between 13:00 and 2026-01-11"


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_short_number_is_the_same_number(value):
    """Names lose no digit, so they stay unique."""
    assert float(short_number(value)) == value
