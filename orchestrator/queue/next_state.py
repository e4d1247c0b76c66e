"""What becomes of a run after an attempt, and how long a back-off lasts; pure.

The verdict over the attempt comes from `worker/verdict.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from orchestrator.run import Outcome, Retry, Run, RunState, StopRequest, Verdict, stamp


@dataclass(frozen=True)
class Next:
    """Where a run goes after an attempt; `halt` is why the whole queue must stop, if it must."""

    state: RunState
    reason: str | None
    deaths: int = 0
    not_before: str | None = None
    halt: str | None = None


@dataclass(frozen=True)
class Backoff:
    """The back-off after a death, doubled each time; `factor` times `retry.max` deaths are the end.

    No more than `most` of them, whatever the spec says.
    """

    first_s: float = 1.0
    most_s: float = 60.0
    factor: int = 1
    most: int | None = None

    def wait_s(self, deaths: int) -> float:
        """How long a run waits that has died so often in a row."""
        return min(self.first_s * 2.0 ** min(deaths - 1, 30), self.most_s)

    def tries(self, most: int) -> int:
        """How many deaths in a row are the end where `retry.max` is `most`."""
        tries = most * self.factor if most > 1 else most
        return tries if self.most is None else min(tries, self.most)


_BACKOFFS = {
    # It goes by the display, which a user leaves on for a while: by default half an hour.
    Verdict.GPU_WATCHDOG: Backoff(first_s=60.0, most_s=900.0, factor=3),
    # By default for five hours: a night's network comes back, and other runs are trained meanwhile.
    Verdict.HUB_AWAY: Backoff(first_s=30.0, most_s=900.0, factor=12),
    # Each costs a quarter of an hour.
    Verdict.STALLED: Backoff(most=2),
}
LONGEST_BACKOFF_S = max(each.most_s for each in _BACKOFFS.values())


def decide(
    run: Run,
    retry: Retry,
    outcome: Outcome,
    newer_checkpoint: bool,
    now: datetime,
    earlier: Sequence[Verdict] = (),
    previous: Verdict | None = None,
) -> Next:
    """The next state of a running run, by the verdict over its attempt.

    `run.deaths` was counted up before the launch, so it includes this attempt. Interruption is no
    failure; a death is repeated from the checkpoint until `retry.max` of them in a row brought no
    newer one. `earlier` are the verdicts over the deaths in that row before this one. `previous` is
    the verdict over the attempt that ended before, of whichever run, in this boot.
    """
    verdict, words = outcome.verdict, outcome.reason
    if verdict is Verdict.COMPLETED:
        return Next(RunState.COMPLETED, None if words == verdict else words)
    if run.request is StopRequest.CANCEL or verdict is Verdict.CANCELLED:
        return Next(RunState.CANCELLED, "cancelled")
    if verdict is Verdict.PRUNED:
        return Next(RunState.PRUNED, words)
    if verdict is Verdict.HELD:
        return Next(RunState.PAUSED, words)
    waiting = RunState.PAUSED if run.request is StopRequest.PAUSE else RunState.QUEUED
    if verdict is Verdict.INTERRUPTED:
        return Next(waiting, words)
    halt = _halt(outcome, previous)
    # A signal left it no time to halve its micro-batch: the next attempt does that.
    as_crash = verdict is Verdict.OOM and outcome.signal is not None
    if halt is None and (Verdict.CRASH if as_crash else verdict) not in retry.on:
        return Next(RunState.FAILED, words)
    if newer_checkpoint:
        return Next(waiting, f"{words}; goes on from its newest checkpoint", halt=halt)
    backoff = _backoff(verdict)
    tries = backoff.tries(retry.max)
    # What may happen more often than this fills no limit that is lower than its own.
    deaths = 1 + sum(_backoff(each).tries(retry.max) <= tries for each in earlier)
    if deaths >= tries:
        tried = f"{deaths} deaths in a row without a newer checkpoint; the last: {words}"
        return Next(RunState.FAILED, tried if deaths > 1 else words, run.deaths, halt=halt)
    not_before = stamp(now, backoff.wait_s(deaths))
    return Next(waiting, f"{words}; tried again", run.deaths, not_before, halt)


def _backoff(verdict: Verdict) -> Backoff:
    return _BACKOFFS.get(verdict, Backoff())


def _halt(outcome: Outcome, previous: Verdict | None) -> str | None:
    """Why the queue must stop: the GPU hangs, or was reset for one attempt after another."""
    if outcome.verdict is Verdict.GPU_HANG:
        return outcome.reason
    if outcome.verdict is Verdict.GPU_RESET is previous:
        return "the GPU was reset twice in a row: restart the machine before it trains on"
    return None
