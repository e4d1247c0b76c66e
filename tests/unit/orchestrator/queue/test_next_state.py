"""What becomes of a run after an attempt: tables written by hand, not from the code."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from orchestrator.queue.next_state import decide
from orchestrator.run import Outcome, Retry, RunState, StopRequest, Verdict, stamp
from tests.records import a_run

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def after(verdict, deaths=1, request=None, newer=False, retry=None):
    """Where a run goes that has died `deaths` times, this one included."""
    run = replace(a_run(), deaths=deaths, request=request)
    return decide(run, retry or Retry(max=3), Outcome(Verdict(verdict), "words"), newer, NOW)


@pytest.mark.parametrize(
    ("verdict", "state"),
    [
        ("completed", "completed"), ("cancelled", "cancelled"), ("interrupted", "queued"),
        ("crash", "queued"), ("lost", "queued"), ("gpu_hang", "queued"),
        ("oom", "failed"), ("config", "failed"), ("data", "failed"), ("diverged", "failed"),
        ("disk_full", "failed"), ("timeout", "failed"), ("gpu_watchdog", "failed"),
    ],
)  # fmt: skip
def test_default_policy(verdict, state):
    """What never succeeds the second time is not tried a second time."""
    assert after(verdict).state == state


def test_retry_on_names_what_is_repeated():
    """A sweep may want the watchdog's victims again, or no crash at all."""
    assert after("gpu_watchdog", retry=Retry(3, ("gpu_watchdog",))).state == "queued"
    assert after("crash", retry=Retry(3, ("lost",))).state == "failed"


@pytest.mark.parametrize(("deaths", "most", "state"), [
    (1, 2, "queued"), (2, 2, "failed"), (1, 0, "failed"), (1, 1, "failed"), (999, 1000, "queued"),
])  # fmt: skip
def test_deaths_in_a_row_end_a_run(deaths, most, state):
    """retry.max deaths without a newer checkpoint are the end."""
    assert after("crash", deaths=deaths, retry=Retry(max=most)).state == state


def test_newer_checkpoint_starts_the_count_anew():
    """A run that gets further is never given up."""
    then = after("crash", deaths=50, newer=True)
    assert (then.state, then.deaths, then.not_before) == (RunState.QUEUED, 0, None)


def test_interruption_is_no_death():
    """Orderly ends reset the count."""
    assert after("interrupted", deaths=2).deaths == 0


@pytest.mark.parametrize(("deaths", "seconds"), [(1, 1), (2, 2), (3, 4), (7, 60), (40, 60)])
def test_back_off_doubles_up_to_a_minute(deaths, seconds):
    """Each death in a row waits twice as long."""
    then = after("crash", deaths=deaths, retry=Retry(max=1000))
    assert then.not_before == stamp(NOW, seconds)


@pytest.mark.parametrize("verdict", ["interrupted", "crash", "lost"])
def test_request_of_the_user_stands_whatever_the_ending(verdict):
    """Pause pauses and cancel cancels also when the trainer died meanwhile."""
    assert after(verdict, request=StopRequest.PAUSE).state == "paused"
    assert after(verdict, request=StopRequest.CANCEL).state == "cancelled"


def test_hang_halts_the_queue_and_is_not_repeated_for_ever():
    """The run goes on after the reboot, but one that hangs every time is given up."""
    assert after("gpu_hang").halt == "words"
    assert after("gpu_hang", deaths=3).state == "failed"
