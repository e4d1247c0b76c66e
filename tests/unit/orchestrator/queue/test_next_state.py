"""What becomes of a run after an attempt: tables written by hand, not from the code."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from orchestrator.queue.next_state import decide
from orchestrator.run import Outcome, Retry, RunState, StopRequest, Verdict, stamp
from tests.records import a_run

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def after(verdict, deaths=1, request=None, newer=False, retry=None, previous=None):
    """Where a run goes that has died `deaths` times so, this one included."""
    earlier = [Verdict(verdict)] * (deaths - 1)
    run = replace(a_run(), deaths=deaths, request=request)
    outcome = Outcome(Verdict(verdict), "words")
    return decide(run, retry or Retry(max=3), outcome, newer, NOW, earlier, previous)


@pytest.mark.parametrize(
    ("verdict", "state"),
    [
        ("completed", "completed"), ("cancelled", "cancelled"), ("interrupted", "queued"),
        ("crash", "queued"), ("lost", "queued"), ("gpu_hang", "queued"),
        ("oom", "failed"), ("config", "failed"), ("data", "failed"), ("diverged", "failed"),
        ("disk_full", "failed"), ("timeout", "failed"), ("gpu_watchdog", "queued"),
        ("gpu_reset", "queued"), ("gpu_fault", "queued"),
    ],
)  # fmt: skip
def test_default_policy(verdict, state):
    """What never succeeds the second time is not tried a second time."""
    assert after(verdict).state == state


def test_a_death_for_memory_is_tried_again_as_a_crash_is():
    """The next attempt cuts its updates smaller; a trainer that ended by itself has tried that."""

    def after_oom(signal, code, **retry):
        outcome = Outcome(Verdict.OOM, "out of memory", "1% was left", code, signal)
        run = replace(a_run(), deaths=1)
        return decide(run, Retry(**retry), outcome, False, NOW).state

    assert after_oom("SIGSEGV", None) == "queued"
    assert after_oom(None, 4) == "failed"
    assert after_oom(None, 137) == "failed"
    assert after_oom("SIGSEGV", None, on=("lost",)) == "failed"
    assert after_oom("SIGSEGV", None, max=1) == "failed"


def test_retry_on_names_what_is_repeated():
    """A sweep may want no crash again, or nothing that the watchdog ended."""
    assert after("gpu_watchdog", retry=Retry(3, ("crash", "lost"))).state == "failed"
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


@pytest.mark.parametrize(("deaths", "seconds"), [(1, 60), (2, 120), (4, 480), (5, 900), (6, 900)])
def test_watchdog_waits_for_the_display_to_sleep(deaths, seconds):
    """A minute at first, a quarter of an hour at most: a second later the display is still on."""
    then = after("gpu_watchdog", deaths=deaths, retry=Retry(max=1000))
    assert then.not_before == stamp(NOW, seconds)


@pytest.mark.parametrize(("deaths", "most", "state"), [
    (5, 2, "queued"), (6, 2, "failed"), (1, 1, "failed"), (1, 0, "failed"), (9, 3, "failed"),
])  # fmt: skip
def test_watchdog_is_tried_three_times_as_often(deaths, most, state):
    """By default for half an hour: 1 + 2 + 4 + 8 + 15 minutes; `max = 1` tries nothing again."""
    assert after("gpu_watchdog", deaths=deaths, retry=Retry(max=most)).state == state


@pytest.mark.parametrize(("deaths", "seconds"), [(1, 30), (2, 60), (5, 480), (6, 900), (23, 900)])
def test_a_hub_that_is_away_is_waited_for(deaths, seconds):
    """Half a minute at first, a quarter of an hour at most; by default for about five hours."""
    then = after("hub_away", deaths=deaths, retry=Retry())
    assert (then.state, then.not_before) == ("queued", stamp(NOW, seconds))
    assert after("hub_away", deaths=24, retry=Retry()).state == "failed"


def test_stalled_run_is_tried_once_more():
    """Each try costs a quarter of an hour, whatever the spec allows for deaths."""
    assert after("stalled", deaths=1, retry=Retry(max=5)).state == "queued"
    assert after("stalled", deaths=2, retry=Retry(max=5)).state == "failed"
    assert after("stalled", deaths=1, retry=Retry(max=1)).state == "failed"


@pytest.mark.parametrize(("earlier", "verdict", "state", "seconds"), [
    ("hub_away " * 23, "crash", "queued", 1), ("hub_away " * 6, "lost", "queued", 1),
    ("hub_away " * 9, "gpu_watchdog", "queued", 60), ("gpu_watchdog " * 5, "stalled", "queued", 1),
    ("hub_away crash hub_away", "crash", "failed", None), ("crash", "lost", "failed", None),
    ("lost", "stalled", "failed", None), ("crash", "gpu_watchdog", "queued", 120),
    ("crash gpu_watchdog", "hub_away", "queued", 120),
    ("hub_away " * 23, "hub_away", "failed", None),
    ("crash" + " hub_away" * 22, "hub_away", "failed", None),
])  # fmt: skip
def test_a_death_fills_no_limit_below_its_own(earlier, verdict, state, seconds):
    """What may happen often leaves the tries of the others, and yet every row comes to an end."""
    row = [Verdict(word) for word in earlier.split()]
    run = replace(a_run(), deaths=len(row) + 1)
    then = decide(run, Retry(max=2), Outcome(Verdict(verdict), "words"), False, NOW, row)
    assert then.state == state
    assert then.not_before == (seconds and stamp(NOW, seconds))


def test_two_resets_in_a_row_halt_the_queue():
    """One may be another program's; two, and the GPU is not well."""
    assert after("gpu_reset").halt is None
    assert after("gpu_reset", previous=Verdict.CRASH).halt is None
    halt = after("gpu_reset", previous=Verdict.GPU_RESET).halt
    assert halt is not None and "twice in a row" in halt


def test_hang_halts_the_queue_and_is_not_repeated_for_ever():
    """The run goes on after the reboot, but one that hangs every time is given up."""
    assert after("gpu_hang").halt == "words"
    assert after("gpu_hang", deaths=3).state == "failed"


def test_a_whole_run_keeps_what_it_says_of_itself():
    """`completed` says nothing that its state does not say."""
    for words, reason in (("completed", None), ("nothing was learnt", "nothing was learnt")):
        outcome = Outcome(Verdict.COMPLETED, words)
        assert decide(a_run(), Retry(max=3), outcome, False, NOW).reason == reason
