"""Curves of many runs made comparable: aligned on updates, thinned, averaged with a band; pure.

Thinning keeps the truth: a point of a long curve is the mean of equally many consecutive updates,
never a picked one, and `Thinned.width` says of how many. A band is the lowest and the highest run
of a group, or its middle half where there are `QUARTILES_FROM` runs or more.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.results.stats import mean, quantile

# (update, value), in logged order.
Curve = Sequence[tuple[int, float]]

QUARTILES_FROM = 5


@dataclass(frozen=True)
class Thinned:
    """One metric of some runs on a common grid of bins, `width` updates each.

    `runs` holds for every run, in the order given, the mean of each bin that it has. Update 0,
    before training, stays alone in bin -1; `last` is the last update of all.
    """

    width: int
    last: int
    runs: tuple[Mapping[int, float], ...]

    def middle(self, number: int) -> float:
        """The middle of the updates in a bin; the last one may be cut short by the end."""
        if number < 0:
            return 0.0
        return (number * self.width + 1 + min((number + 1) * self.width, self.last)) / 2


@dataclass(frozen=True)
class Band:
    """The mean of a group of runs with its band; all five have the same length.

    `updates` is the middle of what a point stands for, `n` how many runs it rests on.
    """

    updates: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    n: tuple[int, ...]

    @property
    def is_wide(self) -> bool:
        """Whether any point rests on more than one run."""
        return max(self.n, default=0) > 1

    @property
    def whole(self) -> int:
        """Up to which point all of its runs are there: beyond, some have ended before the others.

        A mean of those that go on is another curve: where the worst were pruned, it seems to rise.
        """
        most = max(self.n, default=0)
        return max((i + 1 for i, n in enumerate(self.n) if n == most), default=0)


def thin(curves: Sequence[Curve], points: int) -> Thinned:
    """All curves with about `points` points each, or whole where they are shorter than that."""
    updates = {update for curve in curves for update, _ in curve}
    last = max(updates, default=0)
    # Evaluations are few however long a run is.
    width = 1 if len(updates) <= points else math.ceil(last / points)
    return Thinned(width, last, tuple(_bin_means(curve, width) for curve in curves))


def _bin_means(curve: Curve, width: int) -> Mapping[int, float]:
    groups: dict[int, list[float]] = {}
    for update, value in curve:
        groups.setdefault((update - 1) // width if update > 0 else -1, []).append(value)
    return {number: mean(group) for number, group in groups.items()}


def band(of: Thinned, members: Iterable[int]) -> Band:
    """The mean and the band of the runs with these positions."""
    runs = [of.runs[member] for member in members]
    bins = sorted({number for run in runs for number in run})
    values = [sorted(run[number] for run in runs if number in run) for number in bins]
    spreads = [_spread(group) for group in values]
    return Band(
        updates=tuple(of.middle(number) for number in bins),
        mean=tuple(mean(group) for group in values),
        low=tuple(low for low, _ in spreads),
        high=tuple(high for _, high in spreads),
        n=tuple(len(group) for group in values),
    )


def _spread(ordered: Sequence[float]) -> tuple[float, float]:
    if len(ordered) < QUARTILES_FROM:
        return ordered[0], ordered[-1]
    return quantile(ordered, 0.25), quantile(ordered, 0.75)


def only_value(curves: Iterable[Curve]) -> float | None:
    """The one value that some curves have throughout, if they have."""
    values = {value for curve in curves for _, value in curve}
    return values.pop() if len(values) == 1 else None
