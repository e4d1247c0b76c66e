"""Slower than it was: lines of a log, and what they say."""

import time
from datetime import UTC, datetime

import pytest

from orchestrator.results.slowdown import find_slowdown


def log(*rates, seconds=30.0):
    """An update a line, each of so many seconds, with these tokens a second."""
    return [
        {"update": n, "tokens_per_s": rate, "rollout_s": seconds / 2, "update_s": seconds / 2}
        for n, rate in enumerate(rates, 1)
    ]


def test_updates_that_are_all_slow_are_a_slowdown():
    """1,000 tokens a second at first, then 300, 320 and 310: 3.2 times slower for 90 seconds."""
    found = find_slowdown(log(900, 1000, 1100, 1000, 950, 1050, 300, 320, 310))
    assert found.usual == 1000
    assert found.times == pytest.approx(1000 / 310)
    assert found.lasts_s == 90


def test_it_lasts_from_its_first_slow_update_on():
    """Most of the night: what is usual is what was before it, not the night."""
    found = find_slowdown(log(*[1000] * 6, *[250] * 100))
    assert (found.times, found.usual, found.lasts_s) == (4, 1000, 3000)


@pytest.mark.parametrize(
    "rates",
    [
        (),
        # Too few to know what is usual, or that it lasts.
        (1000, 1000, 1000, 1000, 300, 300, 300),
        (1000, 1000, 1000, 1000, 1000, 300, 300),
        # Over again: it was slow for a while.
        (1000, 1000, 1000, 1000, 1000, 300, 300, 300, 900),
        # Longer completions, no foreign load.
        (1000, 1000, 1000, 1000, 1000, 600, 600, 600),
        # As slow as it ever was.
        (300, 300, 300, 300, 300, 300, 300, 300),
        # Faster.
        (300, 300, 300, 300, 300, 1000, 1000, 1000),
        # It goes up and down by itself.
        (1000, 300, 1000, 300, 1000, 300, 1000, 300, 300, 300),
    ],
)
def test_what_is_none(rates):
    """Nothing is said without a clear case."""
    assert find_slowdown(log(*rates)) is None


def test_a_moment_is_no_slowdown():
    """Three updates of half a second each: another program that starts."""
    assert find_slowdown(log(*[1000] * 6, *[250] * 3, seconds=0.5)) is None
    assert find_slowdown(log(*[1000] * 6, *[250] * 3, seconds=20.0)).lasts_s == 60


def test_it_is_said_with_when_it_began(monkeypatch):
    """By the local clock: 90 seconds before the last line of the log."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    lines = log(*[1268] * 6, *[409] * 3)
    until = datetime(2026, 11, 27, 23, 11, 30, tzinfo=UTC)
    text = "3.1 times slower than usual since 23:10 (409 tokens/s, usually 1,268)"
    assert str(find_slowdown(lines, until.timestamp())) == text
    # On another day it says which.
    later = find_slowdown(lines, until.replace(day=28, hour=0, minute=1, second=0).timestamp())
    assert str(later).startswith("3.1 times slower than usual since Fri 23:59 (")


def test_evaluations_count_as_time_and_not_as_updates():
    """A line without a rate, or with one that is no number, is passed over."""
    lines = log(*[1000] * 5, 300, 300)
    lines.insert(6, {"update": 6, "split": "test", "em": 0.5, "eval_s": 40.0})
    assert find_slowdown(lines) is None
    lines += [{"update": 8, "tokens_per_s": None, "rollout_s": 1.0}, *log(290)]
    assert find_slowdown(lines).lasts_s == 60 + 40 + 1 + 30
