"""Watches the log of the running run and says when the sweep's stop rule ends it.

The rules are in `stopping/`; `monitor.py` signals the trainer.
"""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.run import Objective, Run, RunState, StopCode, StopRequest, Sweep
from orchestrator.stopping.curves import UNKNOWN_LENGTH, Decision, RunCurve, curve_of
from orchestrator.stopping.halving import halving
from orchestrator.stopping.health import unhealthy
from orchestrator.stopping.median import below_median
from orchestrator.stopping.rules import StopRule, stop_rule
from orchestrator.system.paths import RunPaths

# Judging may take so much of the worker's time, as a share.
_EFFORT = 0.05


@dataclass(frozen=True)
class Halt:
    """What the trainer is to be asked, and why."""

    ask: StopRequest
    reason: str
    evidence: str | None = None
    code: StopCode | None = None


def stop_decision(
    curve: RunCurve, peers: Iterable[RunCurve], rule: StopRule, objective: Objective
) -> Decision | None:
    """Whether a run stops now, by its health or by the median of its peers.

    `peers` are the other runs of the sweep; halving decides by itself, in `halving`.
    """
    sick = unhealthy(curve, rule.health)
    if sick is not None or rule.rule != "median":
        return sick
    return below_median(curve, peers, rule, objective)


class StopMonitor:
    """Follows one running run and says when it must stop."""

    def __init__(
        self, run: Run, sweep: Sweep, runs: Callable[[], Sequence[Run]], alone: bool = True
    ) -> None:
        """`runs` reads those of the sweep; `alone`: none but this one trains meanwhile."""
        self._alone = alone
        self._curves: dict[int, tuple[int, RunState, RunCurve]] = {}
        self._run = run
        self._sweep = sweep
        self._rule = stop_rule(sweep.stop)
        self._runs = runs
        self._others: list[RunCurve] | None = None
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

    def _judge(self, curve: RunCurve) -> Halt | None:
        peers = self._peers() if self._rule.rule == "median" else []
        decision = stop_decision(curve, peers, self._rule, self._sweep.objective)
        if decision is not None:
            # Not finite is what the trainer itself ends with as diverged; all else is a choice.
            diverged = decision.code is StopCode.NOT_FINITE
            ask = StopRequest.FAIL if diverged else StopRequest.PRUNE
            return Halt(ask, decision.reason, decision.evidence, decision.code)
        return self._at_rung(curve) if self._rule.rule == "halving" else None

    def _peers(self) -> list[RunCurve]:
        """The other runs; read again where they may train while this one does."""
        if self._others is None or not self._alone:
            self._others = [self._curve(run) for run in self._runs() if run.id != self._run.id]
        return self._others

    def _curve(self, run: Run) -> RunCurve:
        """A run's curve; its log is read again only once it has grown, or the run stands anew."""
        size = _size(RunPaths(run.folder).log)
        known = self._curves.get(run.id)
        if known is None or known[:2] != (size, run.state):
            known = self._curves[run.id] = (size, run.state, curve_of(run))
        return known[2]

    def _at_rung(self, curve: RunCurve) -> Halt | None:
        if curve.total == UNKNOWN_LENGTH or not curve.lines:
            return None
        if self._until is None:
            steps = halving([*self._peers(), curve], self._rule, self._sweep.objective)
            self._until = steps[curve.run].until
        if curve.update < self._until or self._until >= curve.total:
            return None
        reason = f"halving: waits at update {curve.update} for the other settings"
        return Halt(StopRequest.RUNG, reason, f"rung at update {self._until} of {curve.total}")


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1
