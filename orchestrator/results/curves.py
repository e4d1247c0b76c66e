"""Curves of runs: kept in bounded room, made comparable on updates, averaged with a band; pure.

Thinning keeps the truth: a point of a long curve is the mean of equally many consecutive updates,
never a picked one, and `Thinned.width` says of how many. A band is the lowest and the highest run
of a group, or its middle half where there are `QUARTILES_FROM` runs or more.
"""

import bisect
import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.results.stats import mean, quantile

# (update, value), in logged order.
Curve = Sequence[tuple[int, float]]

QUARTILES_FROM = 5

# Values from which numpy takes less than it costs.
_MANY = 32

# Bins that are kept of a metric; a screen shows no more.
MOST_BINS = 256


class Bins:
    """One metric of one run as means of `width` consecutive updates each, 1 as long as these fit.

    The width is a power of two, so that the bins of one run are parts of the wider ones of another.
    Update 0, before training, stays alone in bin -1.
    """

    def __init__(self, most: int = MOST_BINS) -> None:
        self._most = most
        self.width = 1
        self.last = 0
        self.low, self.high = math.inf, -math.inf
        self.numbers: array[int] = array("q")
        self._sums: array[float] = array("d")
        self._counts: array[int] = array("q")

    def __len__(self) -> int:
        return len(self.numbers)

    def add(self, update: int, value: float) -> None:
        """One more value; updates come in about their order."""
        if update > self.last:
            self.last = update
        if value < self.low:
            self.low = value
        if value > self.high:
            self.high = value
        number = (update - 1) // self.width if update > 0 else -1
        if self.numbers and self.numbers[-1] == number:
            self._sums[-1] += value
            self._counts[-1] += 1
            return
        behind = bool(self.numbers) and number < self.numbers[-1]
        at = bisect.bisect_left(self.numbers, number) if behind else len(self.numbers)
        if not behind or self.numbers[at] != number:
            self.numbers.insert(at, number)
            self._sums.insert(at, 0.0)
            self._counts.insert(at, 0)
        self._sums[at] += value
        self._counts[at] += 1
        if len(self.numbers) > self._most:
            self._widen()

    def extend(self, updates: Sequence[int], values: Sequence[float]) -> None:
        """What `add` makes of them one by one, but for the last bits of sums; fast for many."""
        if len(updates) < _MANY:
            for update, value in zip(updates, values, strict=True):
                self.add(update, value)
            return
        import numpy as np  # only here, as `status` reads a few new lines and waits for no import

        at, new = np.array(updates, np.int64), np.array(values, np.float64)
        self.last = max(self.last, int(at.max()))
        self.low, self.high = min(self.low, float(new.min())), max(self.high, float(new.max()))
        while True:
            # The bins by now and those of the updates, and which of them each is or goes to.
            own = np.where(at > 0, (at - 1) // self.width, -1)
            numbers, places = np.unique(np.concatenate([self.numbers, own]), return_inverse=True)
            if len(numbers) <= self._most:
                break
            self._double()
        sums = np.bincount(places, np.concatenate([self._sums, new]))
        counts = np.bincount(places, np.concatenate([self._counts, np.ones(len(new))]))
        self.numbers = array("q", numbers.tolist())
        self._sums = array("d", sums.tolist())
        self._counts = array("q", counts.astype(np.int64).tolist())

    def _widen(self) -> None:
        while len(self.numbers) > self._most:
            self._double()

    def _double(self) -> None:
        self.width *= 2
        merged = _merged(self.numbers, self._sums, self._counts, 2)
        self.numbers = array("q", merged)
        self._sums = array("d", (total for total, _ in merged.values()))
        self._counts = array("q", (count for _, count in merged.values()))

    @property
    def means(self) -> list[float]:
        """The value of each bin, in the order of `numbers`."""
        return [total / n for total, n in zip(self._sums, self._counts, strict=True)]

    @property
    def before(self) -> float | None:
        """The value before the first update, if it was measured."""
        return self._sums[0] / self._counts[0] if self.numbers and self.numbers[0] < 0 else None

    @property
    def end(self) -> float | None:
        """The last bin's value."""
        return self._sums[-1] / self._counts[-1] if self.numbers else None

    def middle(self, number: int) -> float:
        """The middle of the updates in a bin."""
        return middle_of(number, self.width, self.last)

    def widened(self, width: int) -> Mapping[int, float]:
        """The mean of each bin of `width` updates, a power of two that is no less than our own."""
        if width == self.width:
            return dict(zip(self.numbers, self.means, strict=True))
        merged = _merged(self.numbers, self._sums, self._counts, width // self.width)
        return {number: total / count for number, (total, count) in merged.items()}


def _merged(
    numbers: Iterable[int], sums: Iterable[float], counts: Iterable[int], by: int
) -> dict[int, tuple[float, int]]:
    found: dict[int, tuple[float, int]] = {}
    for number, total, count in zip(numbers, sums, counts, strict=True):
        wider = number // by if number >= 0 else -1
        so_far, n = found.get(wider, (0.0, 0))
        found[wider] = (so_far + total, n + count)
    return found


def middle_of(number: int, width: int, last: int) -> float:
    """The middle of the updates in a bin; the last one may be cut short by the end."""
    if number < 0:
        return 0.0
    return (number * width + 1 + min((number + 1) * width, last)) / 2


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
        """The middle of the updates in a bin."""
        return middle_of(number, self.width, self.last)


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


def align(curves: Sequence[Bins], points: int) -> Thinned:
    """All curves on bins of one width, the narrowest that gives at most `points` of them."""
    width = max((bins.width for bins in curves), default=1)
    found = [bins.widened(width) for bins in curves]
    while len(set().union(*found)) > points:
        width *= 2
        found = [bins.widened(width) for bins in curves]
    last = max((bins.last for bins in curves), default=0)
    return Thinned(width, last, tuple(found))


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


def only_value(curves: Iterable[Bins]) -> float | None:
    """The one value that some curves have throughout, if they have."""
    values = {value for bins in curves if bins for value in (bins.low, bins.high)}
    return values.pop() if len(values) == 1 else None
