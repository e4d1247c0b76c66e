"""Verdicts and what becomes of a run: tables written from the design, not from the code."""

import signal
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from orchestrator.queue.next_state import Ending, StopRequest, decide, judge, stamp
from orchestrator.run import Outcome, Retry, RunState, Verdict
from tests.records import a_run

DONE = {"status": "completed", "exit_code": 0, "reason": "all updates done"}
METAL = "[METAL] Command buffer execution failed: kIOGPUCommandBufferCallbackError"


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        (2, "config"), (3, "data"), (4, "oom"), (5, "gpu_watchdog"), (6, "diverged"),
        (7, "disk_full"), (75, "interrupted"), (1, "crash"), (99, "crash"),
    ],
)  # fmt: skip
def test_exit_codes(code, verdict):
    """Each code of the trainer's contract has its verdict; any other is a crash."""
    outcome = judge(Ending(exit_code=code, log_tail="ValueError: bad\n"))
    assert (outcome.verdict, outcome.evidence) == (verdict, "ValueError: bad")
    assert outcome.exit_code == code


@pytest.mark.parametrize("result", [None, {"status": "failed"}, {"status": "interrupted"}])
def test_exit_code_0_needs_a_result_that_says_completed(result):
    """Success is believed only with its proof."""
    assert judge(Ending(exit_code=0, result=result)).verdict is Verdict.CRASH
    assert judge(Ending(exit_code=0, result=DONE)).verdict is Verdict.COMPLETED


@pytest.mark.parametrize(
    ("line", "verdict"),
    [
        (METAL + "OutOfMemory", "oom"),
        (METAL + "Hang", "gpu_hang"),
        (METAL + "InnocentVictim", "gpu_hang"),
        (METAL + "ImpactingInteractivity", "gpu_watchdog"),
        (METAL + "Timeout", "gpu_watchdog"),
        ("[metal::malloc] Attempting to allocate 9 bytes", "oom"),
        ("OSError: [Errno 28] No space left on device", "disk_full"),
        ("Segmentation fault", "crash"),
    ],
)  # fmt: skip
def test_abort_is_told_apart_by_its_last_words(line, verdict):
    """SIGABRT alone says nothing: the log's line does, and becomes the evidence."""
    tail = f"loading\n{line}\nAborted\n"
    outcome = judge(Ending(signal=signal.SIGABRT, log_tail=tail))
    assert outcome.verdict == verdict
    assert outcome.signal == "SIGABRT"
    assert outcome.evidence == (line if verdict != "crash" else "Aborted")


def test_code_5_is_a_hang_where_the_log_says_so():
    """The watchdog leaves a GPU that works; a hang does not."""
    hang = Ending(exit_code=5, result={"reason": "the GPU failed: Caused GPU Hang Error"})
    assert judge(hang).verdict is Verdict.GPU_HANG


def test_text_of_a_log_never_outranks_an_explained_exit():
    """A run that diverged, and had printed about memory before, diverged."""
    tail = "warning: out of memory, retrying smaller\nloss is nan\n"
    assert judge(Ending(exit_code=6, log_tail=tail)).verdict is Verdict.DIVERGED
    assert judge(Ending(exit_code=0, result=DONE, log_tail=tail)).verdict is Verdict.COMPLETED


def test_sigkill_is_out_of_memory_only_with_proof():
    """A person's kill -9 may be repeated; the system's may not."""
    killed = Ending(signal=signal.SIGKILL, log_tail="out of memory?")
    assert judge(killed).verdict is Verdict.CRASH
    proof = "the kernel killed for memory: oom_kill went from 1 to 2"
    outcome = judge(replace(killed, memory=proof))
    assert (outcome.verdict, outcome.evidence) == (Verdict.OOM, proof)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_polite_signals_interrupt(number):
    """A trainer that dies of SIGTERM before it listens was interrupted, it did not crash."""
    assert judge(Ending(signal=number)).verdict is Verdict.INTERRUPTED


@pytest.mark.parametrize(
    ("asked", "verdict"),
    [("stop", "interrupted"), ("pause", "interrupted"), ("cancel", "cancelled"),
     ("timeout", "timeout")],
)  # fmt: skip
def test_what_the_worker_asked_for_names_the_ending(asked, verdict):
    """Whether it saved and went, or had to be killed."""
    for end in (Ending(exit_code=75), Ending(signal=signal.SIGKILL), Ending(signal=signal.SIGTERM)):
        assert judge(replace(end, asked=StopRequest(asked))).verdict == verdict


def test_run_that_completes_while_it_is_cancelled_is_completed():
    """What is done is done."""
    end = Ending(exit_code=0, result=DONE, asked=StopRequest.CANCEL)
    assert judge(end).verdict is Verdict.COMPLETED


def test_failure_while_stopping_is_still_a_failure():
    """A stop does not whitewash a run that ran out of memory."""
    assert judge(Ending(exit_code=4, asked=StopRequest.STOP)).verdict is Verdict.OOM


def test_unseen_ending_is_judged_by_the_result():
    """With the worker dead too, result.json gives the exit code."""
    assert judge(Ending(result=DONE)).verdict is Verdict.COMPLETED
    assert judge(Ending(result={"status": "failed", "exit_code": 6})).verdict is Verdict.DIVERGED
    assert judge(Ending(result={"status": "interrupted", "exit_code": 75})).verdict == "interrupted"


def test_unseen_ending_without_result_is_lost():
    """And a reboot is named as what it was."""
    assert judge(Ending()).verdict is Verdict.LOST
    assert "restarted" in judge(Ending(same_boot=False)).reason


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
    assert after(verdict, request="pause").state == "paused"
    assert after(verdict, request="cancel").state == "cancelled"


def test_hang_halts_the_queue_and_is_not_repeated_for_ever():
    """The run goes on after the reboot, but one that hangs every time is given up."""
    assert after("gpu_hang").halt == "words"
    assert after("gpu_hang", deaths=3).state == "failed"


def test_stamps_sort_as_text():
    """Times in the database are compared as text."""
    assert stamp(NOW) == "2026-01-02T03:04:05.000Z"
    assert stamp(NOW) < stamp(NOW, 0.001) < stamp(NOW, 1) < stamp(NOW, 60)
