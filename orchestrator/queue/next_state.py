"""What becomes of a run after an attempt, and how long a back-off lasts; pure.

The verdict over the attempt comes from `worker/verdict.py`.
"""

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


BACKOFF_FIRST_S = 1.0
BACKOFF_MOST_S = 60.0


def decide(run: Run, retry: Retry, outcome: Outcome, newer_checkpoint: bool, now: datetime) -> Next:
    """The next state of a running run, by the verdict over its attempt.

    `run.deaths` was counted up before the launch, so it includes this attempt. Interruption is no
    failure; a death is repeated from the checkpoint until `retry.max` of them in a row brought no
    newer one.
    """
    verdict, words = outcome.verdict, outcome.reason
    if verdict is Verdict.COMPLETED:
        return Next(RunState.COMPLETED, None)
    if run.request is StopRequest.CANCEL or verdict is Verdict.CANCELLED:
        return Next(RunState.CANCELLED, "cancelled")
    if verdict is Verdict.PRUNED:
        return Next(RunState.PRUNED, words)
    if verdict is Verdict.HELD:
        return Next(RunState.PAUSED, words)
    waiting = RunState.PAUSED if run.request is StopRequest.PAUSE else RunState.QUEUED
    if verdict is Verdict.INTERRUPTED:
        return Next(waiting, words)
    halt = words if verdict is Verdict.GPU_HANG else None
    if halt is None and verdict not in retry.on:
        return Next(RunState.FAILED, words)
    if newer_checkpoint:
        return Next(waiting, f"{words}; goes on from its newest checkpoint", halt=halt)
    if run.deaths >= retry.max:
        tried = f"{run.deaths} deaths in a row without a newer checkpoint; the last: {words}"
        return Next(RunState.FAILED, tried if run.deaths > 1 else words, run.deaths, halt=halt)
    wait_s = min(BACKOFF_FIRST_S * 2 ** (run.deaths - 1), BACKOFF_MOST_S)
    return Next(waiting, f"{words}; tried again", run.deaths, stamp(now, wait_s), halt)
