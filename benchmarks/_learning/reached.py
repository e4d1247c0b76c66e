"""When a run reached the score, and what some runs that may not have come to. Pure.

A run that never reached it is censored: all that is known is that it takes longer. So a median is
that of all runs, and unknown where it would fall among those that did not; and a mean is the
restricted mean, in which such a run counts with the time at which it was given up. Intervals are
those of `orchestrator.results.stats`, by Student's t, since a bootstrap of five values is much too
narrow; ratios are of runs with the same seed, in logarithms.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from orchestrator.results.stats import interval, mean

MEASURES = ("cpu_s", "wall_s", "tokens")


@dataclass(frozen=True)
class Reached:
    """What training took until the score, or until the run was given up (`is_censored`)."""

    cpu_s: float
    wall_s: float
    tokens: float
    is_censored: bool


def reached(points: Sequence[Mapping[str, float]], score: float) -> Reached:
    """By a straight line between the two evaluations around the score."""
    for before, after in pairwise(points):
        if after["score"] >= score:
            part = (score - before["score"]) / (after["score"] - before["score"])
            return Reached(
                *(before[n] + part * (after[n] - before[n]) for n in MEASURES), is_censored=False
            )
    return Reached(*(points[-1][name] for name in MEASURES), is_censored=True)


def median(runs: Sequence[Reached], measure: str) -> float | None:
    """The median of a measure; None where it is one of a run that did not reach the score."""
    ordered = sorted(runs, key=lambda run: (run.is_censored, getattr(run, measure)))
    middle = [ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]]
    if any(run.is_censored for run in middle):
        return None
    return mean([getattr(run, measure) for run in middle])


def restricted_mean(runs: Sequence[Reached], measure: str) -> float:
    """The mean, in which a run that did not reach the score counts until it was given up."""
    return mean([getattr(run, measure) for run in runs])


@dataclass(frozen=True)
class Ratio:
    """How many times as fast: the geometric mean over seeds, with its 95% interval."""

    times: float
    low: float | None
    high: float | None
    seeds: int

    @property
    def wins(self) -> bool:
        """Whether faster beyond the interval."""
        return self.low is not None and self.low > 1

    @property
    def loses(self) -> bool:
        """Whether slower beyond the interval."""
        return self.high is not None and self.high < 1


def times_as_fast(
    slow: Mapping[int, Reached], fast: Mapping[int, Reached], measure: str
) -> Ratio | None:
    """Of runs by their seeds; None without a seed that both have."""
    seeds = sorted(slow.keys() & fast.keys())
    if not seeds:
        return None
    logs = [math.log(getattr(slow[s], measure) / getattr(fast[s], measure)) for s in seeds]
    found = interval(logs)
    low, high = (math.exp(end) for end in found) if found else (None, None)
    return Ratio(math.exp(mean(logs)), low, high, len(seeds))
