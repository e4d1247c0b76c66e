"""A sweep's stop rule at work: curves from the runs' folders, and what a running run must do.

The rules themselves are pure functions in `stopping.py`; who is signalled and what is recorded is
the worker's business.
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.queue.next_state import StopRequest
from orchestrator.results.training_log import read_log
from orchestrator.run import Run, RunState, Sweep
from orchestrator.stopping.rules import Course, Curve, HealthRule, StopRule, halving, judge
from orchestrator.system.paths import RunPaths

# Judging may take so much of the worker's time, as a share.
_EFFORT = 0.05
# What a curve's length stands at as long as no line has said it.
_UNKNOWN = 2**31


@dataclass(frozen=True)
class Halt:
    """What the trainer is to be asked, and why."""

    ask: StopRequest
    reason: str
    evidence: str | None = None


def stop_rule(told: Mapping[str, Any]) -> StopRule:
    """The rule of a sweep, from what its row holds; the default where that is nothing."""
    if not told:
        return StopRule()
    health = tuple(HealthRule(**rule) for rule in told["health"])
    return StopRule(told["rule"], told["warmup"], health, told["eta"])


def curve_of(run: Run, lines: Sequence[Mapping[str, Any]] | None = None) -> Curve:
    """A run as the rules see it, from its log as it is now."""
    lines = read_log(run.folder) if lines is None else lines
    totals = [line["updates_total"] for line in lines if isinstance(line.get("updates_total"), int)]
    total = totals[-1] if totals else run.updates_total
    setting = json.dumps(run.overrides, sort_keys=True)
    # A run without any line has come nowhere: any length will do.
    length = total or (_UNKNOWN if lines else 1)
    return Curve(run.id, setting, lines, length, run.state, run.wall_s)


def courses_of(sweep: Sweep, runs: Sequence[Run]) -> dict[int, Course]:
    """Where halving leads each run of a sweep, from the logs as they are now."""
    curves = [curve_of(run) for run in runs if run.state is not RunState.CANCELLED]
    return halving(curves, stop_rule(sweep.stop), sweep.objective)


class StopMonitor:
    """Follows one running run and says when it must stop."""

    def __init__(self, run: Run, sweep: Sweep, runs: Callable[[], Sequence[Run]]) -> None:
        self._run = run
        self._sweep = sweep
        self._rule = stop_rule(sweep.stop)
        self._runs = runs
        self._others: list[Curve] | None = None
        self._until: int | None = None
        self._not_before = 0.0
        self._size = -1

    def look(self) -> Halt | None:
        """What the log as it is now asks for; nothing where it has not grown, or grew just now."""
        began = time.monotonic()
        size = _size(RunPaths(self._run.folder).log)
        if began < self._not_before or size == self._size:
            return None
        self._size = size
        found = self._judge(curve_of(self._run))
        took = time.monotonic() - began
        self._not_before = time.monotonic() + took / _EFFORT
        return found

    def _judge(self, curve: Curve) -> Halt | None:
        peers = self._peers() if self._rule.rule == "median" else []
        decision = judge(curve, peers, self._rule, self._sweep.objective)
        if decision is not None:
            # Not finite is what the trainer itself ends with as diverged; all else is a choice.
            ask = (
                StopRequest.FAIL if decision.reason.startswith("health: nan") else StopRequest.PRUNE
            )
            return Halt(ask, decision.reason, decision.evidence)
        return self._at_rung(curve) if self._rule.rule == "halving" else None

    def _peers(self) -> list[Curve]:
        """The other runs; nothing is added to them while this one holds the GPU."""
        if self._others is None:
            self._others = [curve_of(run) for run in self._runs() if run.id != self._run.id]
        return self._others

    def _at_rung(self, curve: Curve) -> Halt | None:
        if curve.total == _UNKNOWN or not curve.lines:
            return None
        if self._until is None:
            courses = halving([*self._peers(), curve], self._rule, self._sweep.objective)
            self._until = courses[curve.run].until
        if curve.update < self._until or self._until >= curve.total:
            return None
        reason = f"halving: waits at update {curve.update} for the other settings"
        return Halt(StopRequest.RUNG, reason, f"rung at update {self._until} of {curve.total}")


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1
