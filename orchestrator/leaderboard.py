"""Which setting is best, and how sure that is: statistics over the runs of a sweep; pure.

A setting is a set of overrides; its runs differ in their seeds. Reads nothing: the values come
from whoever read the training logs. Bootstrap: Efron & Tibshirani, An Introduction to the
Bootstrap (1993), chapter 13, the percentile interval of the mean.
"""

import itertools
import json
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.run import Objective, Run

# Up to here every resample is counted (5**5 = 3125), beyond it as many are drawn.
EXACT_UP_TO = 5
RESAMPLES = 4000


@dataclass(frozen=True)
class Score:
    """The value of the objective that one run reached."""

    run: Run
    value: float


@dataclass(frozen=True)
class Row:
    """A setting in the ranking; `ci95` is None where one run says nothing about the spread."""

    rank: int
    params: dict[str, Any]
    mean: float
    ci95: tuple[float, float] | None
    scores: tuple[Score, ...]

    @property
    def n(self) -> int:
        """How many runs the mean rests on."""
        return len(self.scores)


def reduce_curve(values: Sequence[float], objective: Objective) -> float | None:
    """One number for a run from the values of its metric in logged order; None without any.

    `last`, `best` by the goal, or `last:N`, the mean of the last N.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return None
    if objective.reduce == "best":
        return max(finite) if objective.goal == "max" else min(finite)
    count = int(objective.reduce.partition(":")[2] or 1)
    return math.fsum(finite[-count:]) / len(finite[-count:])


def ranking(scores: Iterable[Score], objective: Objective) -> list[Row]:
    """The settings, best mean first; equal means share a rank, in the order of the sweep."""
    groups: dict[str, list[Score]] = {}
    for score in scores:
        key = json.dumps(score.run.overrides, sort_keys=True)
        groups.setdefault(key, []).append(score)
    sign = -1.0 if objective.goal == "max" else 1.0
    ordered = sorted(groups.values(), key=lambda group: sign * _mean_of(group))
    means = [_mean_of(group) for group in ordered]
    return [
        Row(
            rank=means.index(mean) + 1,
            params=group[0].run.overrides,
            mean=mean,
            ci95=bootstrap_ci95([score.value for score in group]),
            scores=tuple(group),
        )
        for mean, group in zip(means, ordered, strict=True)
    ]


def _mean_of(group: Sequence[Score]) -> float:
    return mean([score.value for score in group])


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean, the same in whatever order the values come."""
    return math.fsum(values) / len(values)


def bootstrap_ci95(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95% percentile interval of the mean; None for fewer than two values.

    Exact for up to five values; above that drawn with a fixed seed, so that the same values always
    give the same interval.
    """
    if len(values) < 2:
        return None
    means = sorted(mean(sample) for sample in _resamples(sorted(values)))
    return quantile(means, 0.025), quantile(means, 0.975)


def _resamples(values: Sequence[float]) -> Iterable[Sequence[float]]:
    if len(values) <= EXACT_UP_TO:
        return itertools.product(values, repeat=len(values))
    draw = random.Random(0)
    return (draw.choices(values, k=len(values)) for _ in range(RESAMPLES))


def quantile(ordered: Sequence[float], q: float) -> float:
    """The q-quantile of sorted values with linear interpolation (R's type 7, numpy's default)."""
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def differing_keys(rows: Iterable[dict[str, Any]]) -> list[str]:
    """The keys whose values are not the same in all rows (a missing one is a value too)."""
    found = list(rows)
    keys = dict.fromkeys(key for row in found for key in row)
    return [key for key in keys if len({json.dumps(row.get(key, _ABSENT)) for row in found}) > 1]


_ABSENT = "\0absent"
