"""What a stop rule would have done to a sweep that is over; pure."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from orchestrator.run import END_STATES, Objective, RunState
from orchestrator.stopping.curves import Decision, RunCurve
from orchestrator.stopping.halving import halving, setting_values
from orchestrator.stopping.health import unhealthy
from orchestrator.stopping.median import below_median
from orchestrator.stopping.rules import StopRule


@dataclass(frozen=True)
class Replay:
    """What a rule would have done to a sweep that is over.

    `winner` is the best setting of the sweep as it was, `chosen` the best one of those that the
    rule would have let finish, `lost` how much worse that is. Times are in seconds.
    """

    updates: int
    saved: int
    wall_s: float
    saved_s: float
    stopped: tuple[Decision, ...]
    winner: str | None
    chosen: str | None
    lost: float | None

    @property
    def share_saved(self) -> float:
        """The share of all updates that would not have been made."""
        return self.saved / self.updates if self.updates else 0.0

    @property
    def winner_killed(self) -> bool:
        """Whether the best setting would not have finished, nor one that is as good."""
        return self.winner is not None and self.lost != 0


def replay(curves: Sequence[RunCurve], rule: StopRule, objective: Objective) -> Replay:
    """Run a rule over finished curves, one run after the other in the order given.

    The curves of earlier runs are seen as the rule would have left them.
    """
    stopped = {decision.run: decision for decision in _replayed(curves, rule, objective)}
    saved = {
        c.run: max(0, c.update - stopped[c.run].update) if c.run in stopped else 0 for c in curves
    }
    finals = setting_values(
        [c for c in curves if c.state is RunState.COMPLETED],
        {c.run: c.total for c in curves},
        objective,
    )
    finished = {c.setting for c in curves if c.run not in stopped} & finals.keys()
    best = max if objective.goal == "max" else min
    winner = best(finals, key=finals.__getitem__, default=None)
    chosen = best((s for s in finals if s in finished), key=finals.__getitem__, default=None)
    return Replay(
        updates=sum(c.update for c in curves),
        saved=sum(saved.values()),
        wall_s=math.fsum(c.wall_s for c in curves),
        saved_s=math.fsum(c.wall_s * saved[c.run] / c.update for c in curves if c.update),
        stopped=tuple(stopped[c.run] for c in curves if c.run in stopped),
        winner=winner,
        chosen=chosen,
        lost=None if winner is None or chosen is None else abs(finals[winner] - finals[chosen]),
    )


def _replayed(
    curves: Sequence[RunCurve], rule: StopRule, objective: Objective
) -> Iterator[Decision]:
    left: list[RunCurve] = []
    for curve in curves:
        decision = unhealthy(curve, rule.health)
        if rule.rule == "median":
            decision = _first(decision, _median_replayed(curve, left, rule, objective))
        if decision is None:
            left.append(curve)
        else:
            left.append(replace(curve.cut(decision.update), state=RunState.PRUNED))
            yield decision
    if rule.rule == "halving":
        ended = [c if c.state in END_STATES else replace(c, state=RunState.FAILED) for c in left]
        steps = halving(ended, rule, objective)
        yield from (step.decision for step in steps.values() if step.decision)


def _median_replayed(
    curve: RunCurve, peers: Sequence[RunCurve], rule: StopRule, objective: Objective
) -> Decision | None:
    cuts = (curve.cut(update) for update, _ in curve.points(objective.metric))
    found = (below_median(cut, peers, rule, objective) for cut in cuts)
    return next((decision for decision in found if decision is not None), None)


def _first(a: Decision | None, b: Decision | None) -> Decision | None:
    if a is None or b is None:
        return a or b
    return a if a.update <= b.update else b
