"""What is known of the settings that were tried, taken together over their seeds; pure.

The values come from the queue; `suggest.py` and `importance.py` use them.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.run import RunState
from orchestrator.space.constraints import Identity, Rules

_UNFINISHED = frozenset({RunState.QUEUED, RunState.RUNNING, RunState.PAUSED})


@dataclass(frozen=True)
class Trial:
    """What is known of a setting, or of one seed of it.

    `value` is the objective where it completed; `curve` the objective by update as logged so far.
    """

    setting: Mapping[str, object]
    state: RunState
    value: float | None = None
    curve: Mapping[int, float] = field(default_factory=dict)

    @property
    def observed(self) -> bool:
        """Whether the trial says how good its setting is."""
        return self.state in (RunState.COMPLETED, RunState.PRUNED)


def by_setting(rules: Rules, trials: Iterable[Trial]) -> list[Trial]:
    """One trial for each setting, in order of first appearance.

    Completed with the mean of its finite values, unless more seeds failed than completed; else
    running while one has not ended; else pruned with the mean curve; else failed.
    """
    groups: dict[Identity, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(rules.identity(trial.setting), []).append(trial)
    return [_together(group) for group in groups.values()]


def _together(trials: Sequence[Trial]) -> Trial:
    setting = trials[0].setting
    values = [t.value for t in trials if t.state is RunState.COMPLETED and _finite(t.value)]
    failed = sum(t.state is RunState.FAILED for t in trials)
    failed += sum(t.state is RunState.COMPLETED and not _finite(t.value) for t in trials)
    if values and len(values) >= failed:
        mean = math.fsum(value for value in values if value is not None) / len(values)
        return Trial(setting, RunState.COMPLETED, mean)
    if any(t.state in _UNFINISHED for t in trials):
        return Trial(setting, RunState.RUNNING)
    pruned = [t.curve for t in trials if t.state is RunState.PRUNED]
    if pruned and not values:
        return Trial(setting, RunState.PRUNED, curve=_mean_curve(pruned))
    return Trial(setting, RunState.FAILED)


def _mean_curve(curves: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """The mean at each update that every curve has; of one curve the curve itself."""
    common = set.intersection(*(set(curve) for curve in curves))
    mean = {u: math.fsum(curve[u] for curve in curves) / len(curves) for u in sorted(common)}
    return {update: value for update, value in mean.items() if math.isfinite(value)}


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
