"""Successive halving: at each rung the better settings go on, the others are pruned.

Jamieson & Talwalkar (AISTATS 2016), synchronous, because one worker has nobody to wait for.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.results.objective import reduce_curve
from orchestrator.run import END_STATES, Objective, Run, RunState, StopCode, Sweep
from orchestrator.stopping.curves import Decision, RunCurve, curve_of, shown, worse
from orchestrator.stopping.rules import StopRule, stop_rule


@dataclass(frozen=True)
class HalvingStep:
    """What a run does next under halving: train up to the update `until`, or end by `decision`.

    A run that has come to `until` waits for the others, unless that is its whole length.
    """

    until: int
    decision: Decision | None = None


def halving(
    curves: Sequence[RunCurve], rule: StopRule, objective: Objective
) -> dict[int, HalvingStep]:
    """The step of every run of a sweep, from the curves that there are.

    At each rung the settings are compared by the mean over their seeds, once each of their runs has
    come so far or has ended; the best one in `eta` is promoted, with all that tie with the last of
    them. A decision reads nothing behind its rung, so it stays the same when more is logged.
    """
    steps: dict[int, HalvingStep] = {}
    alive = list(curves)
    for number, share in enumerate(rule.rungs):
        rung = {curve.run: _at_share(share, curve.total) for curve in alive}
        arrived = [curve for curve in alive if curve.update >= rung[curve.run]]
        if any(c.update < rung[c.run] and c.state not in END_STATES for c in alive):
            return steps | {run: HalvingStep(until) for run, until in rung.items()}
        losers = _losers(arrived, rung, share, number, rule, objective)
        steps |= {run: HalvingStep(decision.update, decision) for run, decision in losers.items()}
        alive = [curve for curve in arrived if curve.run not in losers]
    return steps | {curve.run: HalvingStep(curve.total) for curve in alive}


def _losers(
    arrived: Sequence[RunCurve],
    rung: Mapping[int, int],
    share: float,
    number: int,
    rule: StopRule,
    objective: Objective,
) -> dict[int, Decision]:
    """Those that are worse than the last setting that is promoted from a rung."""
    values = setting_values(arrived, rung, objective)
    if not values:
        return {}
    ranked = sorted(values.values(), reverse=objective.goal == "max")
    keep = max(1, len(ranked) // rule.eta)
    last = ranked[keep - 1]
    name = objective.metric
    scores = ", ".join(shown(name, value) for value in ranked)
    return {
        curve.run: Decision(
            curve.run,
            rung[curve.run],
            StopCode.HALVING,
            f"halving: {name} {shown(name, values[curve.setting])} at {share:.0%} of the "
            f"run; the best {keep} of {len(ranked)} settings have {shown(name, last)} or better",
            f"rung {number + 1}, update {rung[curve.run]}: {scores}",
        )
        for curve in arrived
        if curve.setting in values and worse(values[curve.setting], last, objective)
    }


def setting_values(
    curves: Iterable[RunCurve], until: Mapping[int, int], objective: Objective
) -> dict[str, float]:
    """The mean over the seeds of each setting that has a value by then."""
    found: dict[str, list[float]] = {}
    for curve in curves:
        points = curve.points(objective.metric, until[curve.run])
        value = reduce_curve([value for _, value in points], objective)
        if value is not None:
            found.setdefault(curve.setting, []).append(value)
    return {setting: math.fsum(values) / len(values) for setting, values in found.items()}


def halving_steps(sweep: Sweep, runs: Sequence[Run]) -> dict[int, HalvingStep]:
    """The step of every run of a sweep, from the logs as they are now."""
    curves = [curve_of(run) for run in runs if run.state is not RunState.CANCELLED]
    return halving(curves, stop_rule(sweep.stop), sweep.objective)


def _at_share(share: float, total: int) -> int:
    """The first update at which this share of a run is done; 3 * 0.1 is 0.3 here."""
    return math.ceil(round(share * total, 9))
