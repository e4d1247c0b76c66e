"""The median rule: a run whose best value is worse than the median is pruned; pure.

As Optuna's MedianPruner, after Golovin et al., Google Vizier (KDD 2017), but compared with every
run that came as far, not only with completed ones.
"""

import math
import statistics
from collections.abc import Iterable

from orchestrator.run import Objective, StopCode
from orchestrator.stopping.curves import Decision, RunCurve, shown, worse
from orchestrator.stopping.rules import StopRule

# Fewer other runs have no median worth the name.
MIN_PEERS = 3


def below_median(
    curve: RunCurve, peers: Iterable[RunCurve], rule: StopRule, objective: Objective
) -> Decision | None:
    """The run's best value so far against the median of what its peers had at the same share."""
    own = curve.points(objective.metric)
    if not own or own[-1][0] < rule.warmup * curve.total:
        return None
    at = own[-1][0]
    best = (max if objective.goal == "max" else min)(value for _, value in own)
    others = [
        points[-1][1]
        for peer in peers
        if peer.run != curve.run
        and (then := at * peer.total / curve.total) <= peer.update
        and (points := peer.points(objective.metric, until=math.floor(then)))
    ]
    if len(others) < MIN_PEERS:
        return None
    median = statistics.median(others)
    if not worse(best, median, objective):
        return None
    name = objective.metric
    return Decision(
        curve.run,
        at,
        StopCode.MEDIAN,
        f"median: {name} {shown(name, best)} at best, {shown(name, median)} "
        f"is the median of {len(others)} runs at update {at}",
        f"update {at}: others {', '.join(shown(name, value) for value in sorted(others))}",
    )
