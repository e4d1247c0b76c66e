"""The `[stop]` table: shares of a run, and the rungs that follow from one."""

import math

import pytest

from orchestrator.errors import SpecError
from orchestrator.stopping.rules import StopRule, parse_share


@pytest.mark.parametrize(("value", "expected"), [("30%", 0.3), (" 7.5 % ", 0.075), (0.5, 0.5)])
def test_a_share_is_a_percentage_or_a_number(value, expected):
    """Above 0 and below 1."""
    assert parse_share(value) == pytest.approx(expected)


@pytest.mark.parametrize(
    "value", ["30", "0%", "100%", 0, 1, 1.5, True, None, "-3%", math.nan, "x%"]
)
def test_what_is_no_share_is_refused(value):
    """With what one looks like."""
    with pytest.raises(SpecError, match="must be a share above 0% and below 100%"):
        parse_share(value)


def test_rungs_follow_the_warm_up():
    """Doubling from the share that is left alone."""
    assert StopRule(warmup=0.3).rungs == pytest.approx((0.3, 0.6))
    assert StopRule(warmup=0.1).rungs == pytest.approx((0.1, 0.2, 0.4, 0.8))
    assert StopRule(warmup=0.5).rungs == (0.5,)
