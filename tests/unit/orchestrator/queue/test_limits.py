"""Limits: what is used up, by hand-made figures and a real folder."""

import pytest

from orchestrator.queue.limits import Used, breach, lift
from orchestrator.run import HoldCode, Limits

ALL = Limits(run_wall_s=10.0, wall_s=100.0, disk_bytes=1000)


@pytest.mark.parametrize(
    ("used", "held_by", "text"),
    [
        (Used(10.1, 100.0, 1000), None, "limits.run_wall"),
        (Used(10.0, 100.1, 1000), "wall", "limits.wall"),
        (Used(10.0, 100.0, 1001), "disk", "limits.disk"),
        (Used(11.0, 101.0, 1001), None, "limits.run_wall"),
    ],
)
def test_limit_is_used_up_past_its_figure(used, held_by, text):
    """At the figure there is still room; past it, the limit is named, and what it holds."""
    assert breach(ALL, Used(10.0, 100.0, 1000)) is None
    found = breach(ALL, used)
    assert (found.hold, found.text.partition(":")[0]) == (held_by, text)


def test_no_limit_is_ever_used_up_by_default():
    """All off."""
    assert breach(Limits(), Used(1e9, 1e9, 10**15)) is None


@pytest.mark.parametrize("used", [Used(0, 101, 0), Used(0, 0, 1001)])
def test_resume_lifts_the_limit_that_held_the_sweep_and_no_other(used):
    """The next breach is of another limit, if any."""
    found = breach(ALL, used)
    lifted = lift(ALL, found.hold)
    assert breach(lifted, used) is None
    assert (lifted.wall_s is None) + (lifted.disk_bytes is None) == 1
    assert lift(ALL, HoldCode.FAILURES) == lift(ALL, None) == ALL
